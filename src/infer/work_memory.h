// What an engine takes of the memory beside the weights and its KV cache.
#pragma once

#include <cstdint>

#include "infer/engine.h"
#include "model/model.h"

namespace onggi {

// Bytes for the passes that these options allow (prefill_chunk, max_batch) on a device of this format.
uint64_t work_bytes(const Model& model, const ActivationFormat& format, const EngineOptions& options);

}  // namespace onggi

// How much context and how many users a machine can serve.
#pragma once

#include <cstdint>

#include "config/config.h"
#include "infer/chat_model.h"
#include "infer/engine.h"

namespace onggi {

// The engine's options for a model under [server]: what the configuration says, and for "auto" the largest
// context (at most the model's and 32768) and batch of 8 whose KV cache fits. memory_bytes: what this process
// may use for weights, cache and work. Throws MachineError naming the figures, and the settings that would
// fit, where not even one whole context fits, or where an explicit context does not; UsageError where it is
// longer than the model's.
EngineOptions plan_engine(const ServerConfig& server, const Model& model, uint64_t memory_bytes);

}  // namespace onggi

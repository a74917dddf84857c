// Files for the benchmarks of quantize and merge: a checkpoint and an adapter of any shape with random
// weights.
#pragma once

#include "base/file.h"
#include "model/config.h"

namespace onggi {

// folder/base: config.json, model shards in bf16, and the tokenizer of models/onggi-mini. Made once and kept.
fs::path bench_checkpoint(const ModelConfig& config, const fs::path& folder);
// folder/adapter: rank 16 on the seven projections.
fs::path bench_adapter(const ModelConfig& config, const fs::path& folder);

}  // namespace onggi

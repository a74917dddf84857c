#include "serve/memory_plan.h"

#include <algorithm>

#include "base/text.h"

namespace onggi {
namespace {

constexpr int64_t kDefaultBatch = 8;
constexpr int64_t kLongestAutoContext = 32768;
constexpr int64_t kShortestAutoContext = 512;
// For activations, logits and threads: measured on models up to 0.6B, generous.
constexpr uint64_t kWorkBytes = uint64_t{512} << 20;

uint64_t bytes_of(const ModelConfig& config, int64_t tokens, DType dtype) {
  const int64_t pages = (tokens + kKvPageTokens - 1) / kKvPageTokens;
  return static_cast<uint64_t>(pages) * KvCache::page_bytes(config, dtype);
}

double gib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

EngineOptions plan_engine(const ServerConfig& server, const Model& model, uint64_t memory_bytes) {
  const ModelConfig& config = model.config;
  EngineOptions options;
  options.max_batch = server.max_batch.value_or(kDefaultBatch);
  options.kv_dtype =
      server.kv_cache_dtype == ServerConfig::KvCacheDtype::kFloat32 ? DType::kF32 : DType::kBF16;
  options.prefill_chunk = server.prefill_chunk;
  options.max_queue = server.max_queue;
  if (server.context_length && *server.context_length > config.max_position_embeddings)
    throw UsageError(
        text("server.context_length is {}, but the model's context is {} tokens; choose at most that",
             *server.context_length, config.max_position_embeddings));

  const uint64_t taken = model.weight_bytes + kWorkBytes;
  const uint64_t budget = memory_bytes > taken ? memory_bytes - taken : 0;
  int64_t context =
      server.context_length.value_or(std::min(config.max_position_embeddings, kLongestAutoContext));
  // Halved until one whole context fits: a context that can never be used would be a false promise.
  while (!server.context_length && context > kShortestAutoContext &&
         bytes_of(config, context, options.kv_dtype) > budget)
    context /= 2;
  const uint64_t one = bytes_of(config, context, options.kv_dtype);
  if (one > budget)
    throw MachineError(
        text("a context of {} tokens needs {:.2f} GiB beside the weights' {:.2f} GiB, but {:.2f} GiB of "
             "memory are "
             "free; lower server.context_length or choose a smaller model",
             context, gib(one), gib(model.weight_bytes), gib(memory_bytes)));
  options.context_length = context;
  options.kv_bytes = std::min(budget, one * static_cast<uint64_t>(options.max_batch));
  return options;
}

}  // namespace onggi

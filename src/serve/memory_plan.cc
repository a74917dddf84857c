#include "serve/memory_plan.h"

#include <algorithm>

#include "base/text.h"
#include "infer/work_memory.h"

namespace onggi {
namespace {

constexpr int64_t kAutoContexts = 8;  // whole ones, in the KV cache
constexpr int64_t kLongestAutoContext = 32768;
constexpr int64_t kShortestAutoContext = 512;

uint64_t bytes_of(const ModelConfig& config, int64_t tokens, DType dtype) {
  const int64_t pages = (tokens + kKvPageTokens - 1) / kKvPageTokens;
  return static_cast<uint64_t>(pages) * KvCache::page_bytes(config, dtype);
}

double gib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

}  // namespace

EngineOptions plan_engine(const ServerConfig& server, const Model& model, const ActivationFormat& format,
                          uint64_t memory_bytes) {
  const ModelConfig& config = model.config;
  const bool on_gpu = format.device == DeviceKind::kCuda;
  EngineOptions options;
  options.max_batch = server.max_batch.value_or(on_gpu ? kAutoBatchOnGpu : kAutoBatchOnCpu);
  options.kv_dtype =
      server.kv_cache_dtype == ServerConfig::KvCacheDtype::kFloat32 ? DType::kF32 : DType::kBF16;
  options.max_queue = server.max_queue;
  if (server.context_length && *server.context_length > config.max_position_embeddings)
    throw UsageError(
        text("server.context_length is {}, but the model's context is {} tokens; choose at most that",
             *server.context_length, config.max_position_embeddings));

  const uint64_t rest = memory_bytes - std::min(memory_bytes, model.weight_bytes);
  options.prefill_chunk = server.prefill_chunk.value_or(usual_prefill_chunk(format.device));
  // A card that the weights nearly fill has better uses for its memory.
  constexpr int64_t kLeastChunk = usual_prefill_chunk(DeviceKind::kCpu);
  while (!server.prefill_chunk && options.prefill_chunk > kLeastChunk &&
         work_bytes(model, format, options) > rest / 4)
    options.prefill_chunk /= 2;
  const uint64_t budget = rest - std::min(rest, work_bytes(model, format, options));
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
  options.kv_bytes = std::min(budget, one * static_cast<uint64_t>(server.max_batch.value_or(kAutoContexts)));
  return options;
}

EngineOptions plan_engine(const ServerConfig& server, const Model& model, const ComputeDevice& device,
                          uint64_t memory_bytes) {
  const int64_t rank = model.adapter ? model.adapter->rank() : 0;
  return plan_engine(
      server, model,
      ActivationFormat::of(device.ops(), device.device().kind, EngineOptions{}.precision, rank),
      memory_bytes);
}

}  // namespace onggi

#include "infer/engine_limits.h"

#include "base/text.h"
#include "infer/scheduler.h"

namespace onggi {
namespace {

constexpr int64_t kMaxTopLogprobs = 100;
constexpr size_t kMaxStopStrings = 64;

}  // namespace

EngineOptions chosen_options(const ModelConfig& config, EngineOptions options) {
  if (options.max_batch < 1 || options.prefill_chunk < 1 || options.max_queue < 1) {
    throw UsageError(text("the engine needs max_batch, prefill_chunk and max_queue of at least 1"));
  }
  if (options.context_length == 0) options.context_length = config.max_position_embeddings;
  if (options.context_length < 2 || options.context_length > config.max_position_embeddings) {
    throw UsageError(text("the context length is {}, but this model allows 2 to {} tokens",
                          options.context_length, config.max_position_embeddings));
  }
  const uint64_t page_bytes = KvCache::page_bytes(config, options.kv_dtype);
  const uint64_t context_pages = static_cast<uint64_t>(pages_for(options.context_length));
  if (options.kv_bytes == 0) {
    options.kv_bytes = page_bytes * context_pages * static_cast<uint64_t>(options.max_batch);
  }
  if (options.kv_bytes < page_bytes * context_pages) {
    throw MachineError(
        text("the KV cache of {} bytes does not hold one context of {} tokens, which takes {} bytes; "
             "give it more memory or choose a shorter context",
             options.kv_bytes, options.context_length, page_bytes * context_pages));
  }
  return options;
}

void check_request(const GenerationRequest& request, const ModelConfig& config,
                   const EngineOptions& options) {
  if (request.prompt.empty()) throw InputError(text("the prompt is empty; give at least one token"));
  for (int32_t id : request.prompt) {
    if (id >= 0 && id < config.vocab_size) continue;
    throw InputError(
        text("the prompt holds token {}, but the ids of this model are 0 to {}", id, config.vocab_size - 1));
  }
  const int64_t length = static_cast<int64_t>(request.prompt.size());
  if (length >= options.context_length) {
    throw ContextError(
        text("the prompt has {} tokens, but the context holds {} with the answer; shorten the prompt or "
             "choose a longer context",
             length, options.context_length));
  }
  if (request.max_new_tokens && *request.max_new_tokens < 1) {
    throw InputError(
        text("the number of new tokens is {}, but at least 1 must be asked for", *request.max_new_tokens));
  }
  if (request.stop.size() > kMaxStopStrings) {
    throw InputError(text("the request has {} stop strings, but at most {} are possible", request.stop.size(),
                          kMaxStopStrings));
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty()) throw InputError(text("a stop string is empty; leave it out"));
  }
  if (request.top_logprobs < 0 || request.top_logprobs > kMaxTopLogprobs) {
    throw InputError(
        text("top_logprobs is {}, but it must be between 0 and {}", request.top_logprobs, kMaxTopLogprobs));
  }
  check(request.sampling, config.vocab_size);
}

}  // namespace onggi

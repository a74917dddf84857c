#include "eval/greedy.h"

#include <algorithm>

#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"
#include "infer/score.h"

namespace onggi {

bool is_end(const ModelConfig& config, int32_t id) {
  return std::find(config.eos_token_ids.begin(), config.eos_token_ids.end(), id) !=
         config.eos_token_ids.end();
}

GreedyAnswer greedy_answer(const Model& model, const Compute& compute, std::span<const int32_t> prompt,
                           int64_t max_new_tokens) {
  const auto prompt_tokens = static_cast<int64_t>(prompt.size());
  const int64_t length = std::min(prompt_tokens + max_new_tokens, model.config.max_position_embeddings);
  if (prompt_tokens >= length)
    throw InputError(text("a prompt of {} tokens leaves no room for an answer in a context of {}",
                          prompt_tokens, model.config.max_position_embeddings));
  KvCache cache(model.config, (length + kKvPageTokens - 1) / kKvPageTokens, compute.activation_dtype(),
                compute.stream());
  KvSequence sequence(cache);
  ONGGI_CHECK(sequence.reserve(length));
  InferenceBuffers buffers(compute.stream());
  GreedyAnswer answer;
  std::vector<int32_t> next(prompt.begin(), prompt.end());
  Stopwatch watch;
  while (prompt_tokens + static_cast<int64_t>(answer.ids.size()) < length && !answer.stopped) {
    const SequenceInput input{&sequence, next};
    const float* logits = infer(model, compute, cache, std::span(&input, 1), buffers);
    const auto id = static_cast<int32_t>(argmax({logits, static_cast<size_t>(model.config.vocab_size)}));
    if (answer.ids.empty()) {
      answer.prompt_seconds = watch.seconds();
      watch.restart();
    }
    answer.ids.push_back(id);
    answer.stopped = is_end(model.config, id);
    next = {id};
  }
  answer.answer_seconds = watch.seconds();
  return answer;
}

}  // namespace onggi

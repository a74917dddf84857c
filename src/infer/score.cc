#include "infer/score.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "infer/sampler.h"
#include "infer/scheduler.h"

namespace onggi {
namespace {

void check_ids(const ModelConfig& config, std::span<const int32_t> ids) {
  if (ids.empty()) throw InputError(text("there is nothing to score: the text has no tokens"));
  if (static_cast<int64_t>(ids.size()) > config.max_position_embeddings) {
    throw InputError(text("the text has {} tokens, but this model reads at most {}", ids.size(),
                          config.max_position_embeddings));
  }
  for (int32_t id : ids) {
    if (id >= 0 && id < config.vocab_size) continue;
    throw InputError(
        text("the text holds token {}, but the ids of this model are 0 to {}", id, config.vocab_size - 1));
  }
}

}  // namespace

void for_each_logit_row(const Model& model, const Compute& compute, std::span<const int32_t> ids,
                        int64_t first, const ScoreOptions& options,
                        const std::function<void(int64_t, std::span<const float>)>& row) {
  check_ids(model.config, ids);
  const auto length = static_cast<int64_t>(ids.size());
  ONGGI_CHECK(first >= 0 && first < length && options.chunk > 0);
  KvCache cache(model.config, pages_for(length), compute.activation_dtype(), compute.stream());
  KvSequence sequence(cache);
  InferenceBuffers buffers(compute.stream());
  const auto vocabulary = static_cast<size_t>(model.config.vocab_size);
  for (int64_t begin = 0; begin < length;) {
    // A chunk lies wholly before `first`, without logits, or wholly after it.
    const int64_t limit = begin < first ? first : length;
    const int64_t end = std::min(begin + options.chunk, limit);
    ONGGI_CHECK(sequence.reserve(end));
    const auto logits_kind = begin < first ? SequenceInput::Logits::kNone : SequenceInput::Logits::kAll;
    const SequenceInput input{
        &sequence, ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), logits_kind};
    const float* logits = infer(model, compute, cache, {&input, 1}, buffers);
    for (int64_t i = std::max(begin, first); i < end; ++i) {
      row(i, {logits + static_cast<size_t>(i - begin) * vocabulary, vocabulary});
    }
    begin = end;
  }
}

Score score(const Model& model, const Compute& compute, std::span<const int32_t> ids,
            const ScoreOptions& options) {
  Score result;
  double sum = 0;
  for_each_logit_row(model, compute, ids, 0, options, [&](int64_t i, std::span<const float> logits) {
    const auto next = static_cast<size_t>(i + 1);
    if (next == ids.size()) return;
    const double logprob = logits[static_cast<size_t>(ids[next])] - log_sum_exp(logits);
    result.logprobs.push_back(static_cast<float>(logprob));
    sum -= logprob;
  });
  if (!result.logprobs.empty()) result.mean_nll = sum / static_cast<double>(result.logprobs.size());
  return result;
}

std::vector<float> logit_rows_of(const Model& model, const Compute& compute, std::span<const int32_t> ids,
                                 int64_t first, const ScoreOptions& options) {
  std::vector<float> rows;
  rows.reserve((ids.size() - static_cast<size_t>(first)) * static_cast<size_t>(model.config.vocab_size));
  for_each_logit_row(model, compute, ids, first, options, [&](int64_t, std::span<const float> logits) {
    rows.insert(rows.end(), logits.begin(), logits.end());
  });
  return rows;
}

void log_softmax(std::span<float> row) {
  const auto normaliser = static_cast<float>(log_sum_exp(row));
  for (float& value : row) value -= normaliser;
}

double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits) {
  ONGGI_CHECK(p_logits.size() == q_logits.size());
  const double p_normaliser = log_sum_exp(p_logits), q_normaliser = log_sum_exp(q_logits);
  double sum = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double log_p = p_logits[i] - p_normaliser;
    sum += std::exp(log_p) * (log_p - (q_logits[i] - q_normaliser));
  }
  // Rounding can leave a tiny negative number where the rows are equal.
  return std::max(sum, 0.0);
}

int64_t argmax(std::span<const float> row) {
  ONGGI_CHECK(!row.empty());
  return std::max_element(row.begin(), row.end()) - row.begin();
}

}  // namespace onggi

#include "eval/parity.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "infer/score.h"

namespace onggi {
namespace {

std::vector<int32_t> rendered(const LoadedModel& model, const std::string& messages_json) {
  return render_prompt(model, nlohmann::ordered_json::parse(messages_json));
}

// Rows of logits over an answer: position i predicts answer token i.
std::vector<float> answer_logits(const Model& model, const Compute& compute,
                                 const std::vector<int32_t>& prompt, const std::vector<int32_t>& answer) {
  std::vector<int32_t> ids = prompt;
  // The prediction after the last token is not compared.
  ids.insert(ids.end(), answer.begin(), answer.end() - 1);
  return logit_rows_of(model, compute, ids, static_cast<int64_t>(prompt.size()) - 1);
}

}  // namespace

ParityReference::ParityReference(const LoadedModel& model, const Compute& compute,
                                 std::vector<std::string> messages_json, int64_t max_new_tokens,
                                 std::string name)
    : name_(std::move(name)) {
  for (std::string& messages : messages_json) {
    Prompt prompt;
    prompt.ids = rendered(model, messages);
    prompt.messages_json = std::move(messages);
    prompt.answer = greedy_answer(*model.model, compute, prompt.ids, max_new_tokens);
    prompt.logits = answer_logits(*model.model, compute, prompt.ids, prompt.answer.ids);
    prompts_.push_back(std::move(prompt));
  }
}

std::string ParityReference::prompts_sha256() const {
  std::string ids;
  for (const Prompt& prompt : prompts_) ids += nlohmann::ordered_json(prompt.ids).dump() + "\n";
  return sha256_hex(ids);
}

ParityResult ParityReference::compare(const LoadedModel& candidate, const Compute& compute,
                                      const std::string& artefact, const ParityBound& bound) const {
  ParityResult result;
  result.artefact = artefact;
  result.reference = name_;
  result.bound = bound;
  result.prompts_sha256 = prompts_sha256();
  const auto vocabulary = static_cast<size_t>(candidate.model->config.vocab_size);
  double kl_sum = 0;
  int64_t agreeing = 0;
  for (size_t p = 0; p < prompts_.size(); ++p) {
    const Prompt& prompt = prompts_[p];
    if (rendered(candidate, prompt.messages_json) != prompt.ids) {
      result.prompts_equal = false;
      result.reason = text("the token ids of prompt {} differ", p + 1);
      continue;
    }
    const std::vector<float> logits = answer_logits(*candidate.model, compute, prompt.ids, prompt.answer.ids);
    if (logits.size() != prompt.logits.size())
      throw InputError(text("{} has another vocabulary than {}", artefact, name_));
    for (size_t i = 0; i < prompt.answer.ids.size(); ++i) {
      const std::span<const float> expected(prompt.logits.data() + i * vocabulary, vocabulary);
      const std::span<const float> actual(logits.data() + i * vocabulary, vocabulary);
      const double kl = kl_divergence(expected, actual);
      kl_sum += kl;
      note_divergence(result, kl, p + 1);
      const auto said = static_cast<int32_t>(argmax(actual));
      agreeing += said == prompt.answer.ids[i];
      if (said != prompt.answer.ids[i] && result.first_divergence.empty())
        result.first_divergence =
            text("prompt {}, token {}: \"{}\" where \"{}\" is expected", p + 1, i + 1,
                 candidate.tokenizer.decode(std::vector<int32_t>{said}),
                 candidate.tokenizer.decode(std::vector<int32_t>{prompt.answer.ids[i]}));
      ++result.positions;
    }
    // An answer that ends in the reference must end here too, if not at the same token.
    if (prompt.answer.stopped) {
      const int64_t patience = 2 * static_cast<int64_t>(prompt.answer.ids.size()) + 32;
      if (!greedy_answer(*candidate.model, compute, prompt.ids, patience).stopped) {
        result.stops = false;
        if (result.reason.empty()) result.reason = text("the answer to prompt {} does not end", p + 1);
      }
    }
  }
  if (result.positions > 0) {
    result.mean_kl = kl_sum / static_cast<double>(result.positions);
    result.agreement = static_cast<double>(agreeing) / static_cast<double>(result.positions);
  }
  judge(result);
  return result;
}

void note_divergence(ParityResult& result, double kl, size_t prompt) {
  if (result.worst_prompt != 0 && (kl <= result.max_kl || std::isnan(result.max_kl))) return;
  result.max_kl = kl;
  result.worst_prompt = prompt;
}

void judge(ParityResult& result) {
  // Written so that a divergence that is not a number fails.
  if (result.reason.empty() && !(result.mean_kl <= result.bound.max_kl))
    result.reason =
        text("the mean KL divergence is {:.4g} nats where {:.4g} is allowed, most at prompt {} ({})",
             result.mean_kl, result.bound.max_kl, result.worst_prompt,
             result.first_divergence.empty() ? text("no token differs") : result.first_divergence);
  if (result.reason.empty() && result.agreement < result.bound.min_agreement)
    result.reason = text("{:.2f} % of the most likely tokens agree where {:.2f} % are asked for ({})",
                         100 * result.agreement, 100 * result.bound.min_agreement, result.first_divergence);
  result.passed = result.reason.empty();
}

nlohmann::ordered_json ParityResult::to_json() const {
  return {{"artefact", artefact},
          {"reference", reference},
          {"positions", positions},
          {"prompts_equal", prompts_equal},
          {"prompts_sha256", prompts_sha256},
          {"worst_prompt", worst_prompt},
          {"mean_kl", mean_kl},
          {"max_kl", max_kl},
          {"agreement", agreement},
          {"first_divergence", first_divergence},
          {"stops", stops},
          {"bound", {{"max_kl", bound.max_kl}, {"min_agreement", bound.min_agreement}}},
          {"passed", passed},
          {"reason", reason}};
}

}  // namespace onggi

// Sampling from the likeliest tokens alone, for rows of logits that stay on their device. What it answers is
// what the whole row would give, or nothing.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/text.h"
#include "infer/sampler.h"

namespace onggi {
namespace {

bool changes_logits(const SamplingParams& params) {
  return !params.logit_bias.empty() || (params.repeat_penalty != 1 && params.repeat_last_n != 0) ||
         params.presence_penalty != 0 || params.frequency_penalty != 0;
}

}  // namespace

int64_t top_logits_for(const SamplingParams& params, int64_t top_logprobs, const TokenConstraint* constraint,
                       int64_t limit, int64_t vocabulary) {
  const bool greedy = params.temperature == 0;
  if (!greedy && (params.top_k == 0 || params.top_k >= vocabulary)) return 0;
  const int64_t needed = std::max({int64_t{1}, greedy ? 1 : params.top_k, top_logprobs});
  limit = std::min(limit, vocabulary);
  if (needed > limit) return 0;
  // Changed logits reorder the tokens, and a constraint may look far down: more of them are then of use.
  return constraint != nullptr || changes_logits(params) ? limit : needed;
}

// The candidates with their changed logits, best first, as far as no token from outside can come between.
// Each step of a change grows with the logit, and no logit from outside is above the last one's: what the
// changes make of that one bounds what they make of a token from outside.
std::vector<Candidate> Sampler::certain(const TopRow& top) const {
  std::vector<Candidate> candidates(top.ids.size());
  for (size_t i = 0; i < candidates.size(); ++i) candidates[i] = {top.ids[i], top.values[i]};
  std::vector<Change> list = changes();
  if (list.empty()) return candidates;

  const Candidate last = candidates.back();
  Candidate bound = last;  // that one itself is inside: what is outside and unchanged comes after it
  const bool all_inside = std::ssize(top.ids) == top.vocabulary;
  std::stable_sort(list.begin(), list.end(), [](const Change& a, const Change& b) { return a.id < b.id; });
  std::vector<Candidate*> by_id;
  for (Candidate& c : candidates) by_id.push_back(&c);
  std::sort(by_id.begin(), by_id.end(), [](const Candidate* a, const Candidate* b) { return a->id < b->id; });
  for (size_t i = 0; i < list.size();) {
    const int32_t id = list[i].id;
    const auto found = std::lower_bound(by_id.begin(), by_id.end(), id,
                                        [](const Candidate* c, int32_t value) { return c->id < value; });
    const bool inside = found != by_id.end() && (*found)->id == id;
    Candidate outside{id, last.value};
    float& value = inside ? (*found)->value : outside.value;
    for (; i < list.size() && list[i].id == id; ++i) value = changed(value, list[i]);
    if (!inside && better(outside, bound)) bound = outside;
  }
  std::sort(candidates.begin(), candidates.end(), better);
  if (all_inside) return candidates;
  const auto end = std::find_if(candidates.begin(), candidates.end(),
                                [&](const Candidate& c) { return better(bound, c); });
  candidates.erase(end, candidates.end());
  return candidates;
}

std::optional<SampledToken> Sampler::sample_top(const TopRow& top, int64_t top_logprobs,
                                                TokenConstraint* constraint) {
  if (!std::isfinite(top.log_sum_exp)) {
    throw WorkError(text("the model gave logits that are not finite numbers; its weights may be damaged"));
  }
  const int64_t count = std::ssize(top.ids);
  const int64_t wanted = top_logits_for(params_, top_logprobs, nullptr, /*limit=*/count, top.vocabulary);
  if (count == 0 || wanted == 0) return std::nullopt;
  const std::vector<Candidate> ranked = certain(top);
  const auto allowed = [&](const Candidate& c) { return constraint == nullptr || constraint->allows(c.id); };
  const auto best_allowed = std::find_if(ranked.begin(), ranked.end(), allowed);

  int32_t id = -1;
  if (params_.temperature > 0) {
    if (std::ssize(ranked) < params_.top_k) return std::nullopt;
    candidates_.assign(ranked.begin(), ranked.begin() + params_.top_k);
    weigh(ranked.front().value, TopP::kCut);
    id = draw(constraint);
  }
  if (id < 0) {
    if (best_allowed == ranked.end()) return std::nullopt;
    id = best_allowed->id;
  }
  const auto place = std::find(top.ids.begin(), top.ids.end(), id) - top.ids.begin();
  SampledToken token = take(id, top.values[static_cast<size_t>(place)], top.log_sum_exp, constraint);
  for (size_t i = 0; i < static_cast<size_t>(top_logprobs); ++i) {
    token.top.push_back({top.ids[i], static_cast<float>(top.values[i] - top.log_sum_exp)});
  }
  return token;
}

}  // namespace onggi

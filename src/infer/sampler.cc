#include "infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/text.h"
#include "infer/softmax.h"

namespace onggi {
namespace {

// Up to here the largest are found with a heap, which reads the logits once and hardly ever writes.
constexpr size_t kHeapLimit = 512;
// So many tokens are tried one by one before a constraint is asked about all candidates.
constexpr int kTries = 16;

void check_range(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return;  // false for NaN
  throw InputError(text("{} is {}, but it must be between {} and {}", name, value, low, high));
}

std::vector<Candidate> all_candidates(std::span<const float> values) {
  std::vector<Candidate> all(values.size());
  for (size_t i = 0; i < values.size(); ++i) all[i] = {static_cast<int32_t>(i), values[i]};
  return all;
}

std::vector<Candidate> largest_by_heap(std::span<const float> values, size_t n) {
  std::vector<Candidate> heap;  // its front is the worst
  heap.reserve(n);
  for (size_t i = 0; i < values.size(); ++i) {
    const Candidate candidate{static_cast<int32_t>(i), values[i]};
    if (heap.size() == n) {
      if (values[i] <= heap.front().value) continue;  // on a tie the earlier, lower id stays
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.back() = candidate;
    } else {
      heap.push_back(candidate);
    }
    std::push_heap(heap.begin(), heap.end(), better);
  }
  std::sort(heap.begin(), heap.end(), better);
  return heap;
}

// Shortens candidates, which hold all ids with their logits, to the likeliest whose probabilities reach
// `share` of the whole. `weight` gives exp of a logit; total is the sum over all.
template <typename Weight>
void keep_share(std::vector<Candidate>& candidates, double share, double total, const Weight& weight) {
  double sum = 0;
  size_t sorted = 0;
  for (size_t block = 128; sorted < candidates.size(); block *= 4) {
    const size_t end = std::min(candidates.size(), sorted + block);
    const auto first = candidates.begin() + static_cast<ptrdiff_t>(sorted);
    const auto middle = candidates.begin() + static_cast<ptrdiff_t>(end);
    if (middle != candidates.end()) std::nth_element(first, middle, candidates.end(), better);
    std::sort(first, middle, better);
    for (size_t i = sorted; i < end; ++i) {
      sum += weight(candidates[i].value);
      if (sum >= share * total) {
        candidates.resize(i + 1);
        return;
      }
    }
    sorted = end;
  }
}

// Keeps those of candidates [probabilities, any scale] whose surprise is nearest to the entropy, up to
// `share`.
void keep_typical(std::vector<Candidate>& candidates, double share) {
  double total = 0, entropy = 0;
  for (const Candidate& c : candidates) total += c.value;
  const auto surprise = [&](const Candidate& c) { return -std::log(c.value / total); };
  std::erase_if(candidates, [](const Candidate& c) { return c.value <= 0; });
  for (const Candidate& c : candidates) entropy += c.value / total * surprise(c);
  std::vector<std::pair<double, Candidate>> order;
  for (const Candidate& c : candidates) order.emplace_back(std::abs(surprise(c) - entropy), c);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : better(a.second, b.second);
  });
  candidates.clear();
  double sum = 0;
  for (const auto& [distance, candidate] : order) {
    candidates.push_back(candidate);
    sum += candidate.value;
    if (sum >= share * total) break;
  }
  std::sort(candidates.begin(), candidates.end(), better);
}

// The same for top_p on candidates that are sorted already.
void keep_top_p(std::vector<Candidate>& candidates, double share) {
  double total = 0, sum = 0;
  for (const Candidate& c : candidates) total += c.value;
  for (size_t i = 0; i < candidates.size(); ++i) {
    sum += candidates[i].value;
    if (sum < share * total) continue;
    candidates.resize(i + 1);
    return;
  }
}

// The likeliest token that the constraint allows, from all logits. Throws WorkError when there is none.
int32_t best_allowed(std::span<const float> logits, const TokenConstraint& constraint) {
  for (const Candidate& candidate : largest(logits, 64)) {
    if (constraint.allows(candidate.id)) return candidate.id;
  }
  std::vector<Candidate> rest = all_candidates(logits);
  std::erase_if(rest, [&](const Candidate& c) { return !constraint.allows(c.id); });
  if (rest.empty()) {
    throw WorkError(
        text("no token of the vocabulary can continue the answer in the format that was asked for"));
  }
  return std::min_element(rest.begin(), rest.end(), better)->id;
}

// Uniform in [0, 1) with 53 bits, enough to tell 150,000 tokens apart.
double uniform(Random& random) {
  const uint64_t high = random.next_u32(), low = random.next_u32();
  return static_cast<double>(((high << 32) | low) >> 11) * 0x1.0p-53;
}

}  // namespace

void check(const SamplingParams& params, int64_t vocabulary) {
  constexpr double kMany = 1e6;
  check_range("temperature", params.temperature, 0, 100);
  check_range("top_k", static_cast<double>(params.top_k), 0, std::numeric_limits<int32_t>::max());
  check_range("top_p", params.top_p, 0, 1);
  check_range("min_p", params.min_p, 0, 1);
  check_range("typical_p", params.typical_p, 0, 1);
  check_range("repeat_penalty", params.repeat_penalty, 0.01, 100);
  check_range("repeat_last_n", static_cast<double>(params.repeat_last_n), -1,
              std::numeric_limits<int32_t>::max());
  check_range("presence_penalty", params.presence_penalty, -100, 100);
  check_range("frequency_penalty", params.frequency_penalty, -100, 100);
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocabulary) {
      throw InputError(
          text("logit_bias names token {}, but the ids of this model are 0 to {}", id, vocabulary - 1));
    }
    check_range("logit_bias", bias, -kMany, kMany);
  }
}

std::vector<Candidate> largest(std::span<const float> values, size_t n) {
  n = std::min(n, values.size());
  if (n == 0) return {};
  if (n <= kHeapLimit) return largest_by_heap(values, n);
  std::vector<Candidate> all = all_candidates(values);
  const auto middle = all.begin() + static_cast<ptrdiff_t>(n);
  if (middle != all.end()) std::nth_element(all.begin(), middle, all.end(), better);
  all.resize(n);
  std::sort(all.begin(), all.end(), better);
  return all;
}

double log_sum_exp(std::span<const float> logits) {
  const float top = max_of(logits);
  return top + std::log(sum_of_exp(logits, top, 1.0f));
}

Sampler::Sampler(SamplingParams params, std::span<const int32_t> prompt)
    : params_(std::move(params)), history_(prompt.begin(), prompt.end()), prompt_length_(prompt.size()) {
  ONGGI_CHECK(params_.seed.has_value());
}

SampledToken Sampler::sample(std::span<const float> logits, int64_t top_logprobs,
                             TokenConstraint* constraint) {
  const double normaliser = log_sum_exp(logits);
  if (!std::isfinite(normaliser)) {
    throw WorkError(text("the model gave logits that are not finite numbers; its weights may be damaged"));
  }
  const int32_t id = pick(adjusted(logits), constraint);
  SampledToken token = take(id, logits[static_cast<size_t>(id)], normaliser, constraint);
  for (const Candidate& c : largest(logits, static_cast<size_t>(top_logprobs))) {
    token.top.push_back({c.id, static_cast<float>(c.value - normaliser)});
  }
  return token;
}

SampledToken Sampler::take(int32_t id, float logit, double log_sum_exp, TokenConstraint* constraint) {
  history_.push_back(id);
  if (constraint != nullptr) constraint->accept(id);
  return {.id = id, .logprob = static_cast<float>(logit - log_sum_exp), .top = {}};
}

float Sampler::changed(float logit, const Change& change) const {
  if (change.kind == Change::Kind::kAdd) return logit + change.amount;
  return logit > 0 ? logit / change.amount : logit * change.amount;
}

// In the order in which they apply to a token.
std::vector<Sampler::Change> Sampler::changes() const {
  std::vector<Change> list;
  for (const auto& [id, bias] : params_.logit_bias) list.push_back({id, Change::Kind::kAdd, bias});
  if (params_.repeat_penalty != 1 && params_.repeat_last_n != 0) {
    const size_t window = params_.repeat_last_n < 0
                              ? history_.size()
                              : std::min(history_.size(), static_cast<size_t>(params_.repeat_last_n));
    std::vector<int32_t> seen(history_.end() - static_cast<ptrdiff_t>(window), history_.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (int32_t id : seen)
      list.push_back({id, Change::Kind::kRepeat, static_cast<float>(params_.repeat_penalty)});
  }
  if (params_.presence_penalty != 0 || params_.frequency_penalty != 0) {
    std::vector<int32_t> answer(history_.begin() + static_cast<ptrdiff_t>(prompt_length_), history_.end());
    std::sort(answer.begin(), answer.end());
    for (size_t i = 0; i < answer.size(); ++i) {
      double penalty = params_.frequency_penalty;
      if (i == 0 || answer[i] != answer[i - 1]) penalty += params_.presence_penalty;
      list.push_back({answer[i], Change::Kind::kAdd, -static_cast<float>(penalty)});
    }
  }
  return list;
}

std::span<const float> Sampler::adjusted(std::span<const float> logits) {
  const std::vector<Change> list = changes();
  if (list.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  for (const Change& change : list) {
    float& logit = adjusted_[static_cast<size_t>(change.id)];
    logit = changed(logit, change);
  }
  return adjusted_;
}

int32_t Sampler::pick(std::span<const float> logits, const TokenConstraint* constraint) {
  if (params_.temperature == 0) {
    const int32_t best = largest(logits, 1).front().id;
    if (constraint == nullptr || constraint->allows(best)) return best;
    return best_allowed(logits, *constraint);
  }
  collect_candidates(logits);
  const int32_t id = draw(constraint);
  return id >= 0 ? id : best_allowed(logits, *constraint);
}

// Fills candidates_ with what top_k and the rest leave, as probabilities up to a common factor.
void Sampler::collect_candidates(std::span<const float> logits) {
  const float factor = static_cast<float>(1 / params_.temperature);
  const float top = max_of(logits);
  const auto weight = [&](float logit) { return exp_of_negative((logit - top) * factor); };
  const size_t k = static_cast<size_t>(params_.top_k);
  const bool cut = k > 0 && k < logits.size();
  const bool share_of_all = !cut && params_.top_p < 1 && params_.typical_p >= 1;
  candidates_ = cut ? largest(logits, k) : all_candidates(logits);
  if (share_of_all) keep_share(candidates_, params_.top_p, sum_of_exp(logits, top, factor), weight);
  weigh(top, share_of_all ? TopP::kCutAlready : TopP::kCut);
}

// Logits in candidates_ become probabilities up to a common factor; typical_p, top_p and min_p cut. `best` is
// the largest logit.
void Sampler::weigh(float best, TopP top_p) {
  const float factor = static_cast<float>(1 / params_.temperature);
  for (Candidate& c : candidates_) c.value = exp_of_negative((c.value - best) * factor);
  if (params_.typical_p < 1) keep_typical(candidates_, params_.typical_p);
  if (params_.top_p < 1 && top_p == TopP::kCut) keep_top_p(candidates_, params_.top_p);
  if (params_.min_p > 0) {
    float likeliest = 0;
    for (const Candidate& c : candidates_) likeliest = std::max(likeliest, c.value);
    const float floor = likeliest * static_cast<float>(params_.min_p);
    std::erase_if(candidates_, [&](const Candidate& c) { return c.value < floor; });
  }
}

// Draws from candidates_; a rejected token's probability becomes 0 and the draw is repeated, which gives the
// same distribution as masking all first. -1 where the constraint rejects every candidate.
int32_t Sampler::draw(const TokenConstraint* constraint) {
  Random random(*params_.seed, /*stream=*/history_.size() - prompt_length_);
  for (int attempt = 0;; ++attempt) {
    if (attempt == kTries) {
      for (Candidate& c : candidates_) {
        if (c.value > 0 && !constraint->allows(c.id)) c.value = 0;
      }
    }
    double total = 0;
    for (const Candidate& c : candidates_) total += c.value;
    if (total <= 0) return -1;
    const double target = uniform(random) * total;
    double sum = 0;
    Candidate* drawn = nullptr;
    for (Candidate& c : candidates_) {
      if (c.value <= 0) continue;
      drawn = &c;  // the last positive one where rounding leaves the target just above the sum
      sum += c.value;
      if (sum > target) break;
    }
    if (constraint == nullptr || constraint->allows(drawn->id)) return drawn->id;
    drawn->value = 0;
  }
}

}  // namespace onggi

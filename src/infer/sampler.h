// From one row of logits to one token. What is drawn depends on the request's own seed and on the index of
// the token in the answer alone, so that neighbours in a batch never change an answer.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/random.h"
#include "infer/constraint.h"

namespace onggi {

// Order of the steps: logit_bias, penalties, temperature, top_k, typical_p, top_p, min_p.
struct SamplingParams {
  double temperature = 0.6;      // 0: the most likely token, always; the lowest id on a tie
  int64_t top_k = 20;            // 0: all
  double top_p = 0.95;           // 1: off
  double min_p = 0;              // 0: off; keeps tokens of at least min_p times the best one's probability
  double typical_p = 1;          // 1: off; locally typical sampling (Meister et al. 2022)
  double repeat_penalty = 1;     // 1: off; divides positive, multiplies negative logits (Keskar et al. 2019)
  int64_t repeat_last_n = 64;    // tokens of prompt and answer that repeat_penalty looks at; -1: all, 0: off
  double presence_penalty = 0;   // subtracted once for a token that the answer has
  double frequency_penalty = 0;  // subtracted for each time that the answer has it
  std::vector<std::pair<int32_t, float>> logit_bias;  // added to the logit of an id
  std::optional<uint64_t> seed;                       // absent: the engine draws one
};

// Throws InputError naming the value that is out of its range. V: vocabulary.
void check(const SamplingParams& params, int64_t vocabulary);

struct TokenLogprob {
  int32_t id = 0;
  float logprob =
      0;  // natural logarithm, of the model's own distribution: before bias, penalties, temperature
};

struct SampledToken {
  int32_t id = 0;
  float logprob = 0;              // as in TokenLogprob
  std::vector<TokenLogprob> top;  // the most likely tokens, best first; as many as were asked for
};

// An id with its logit, later its probability.
struct Candidate {
  int32_t id;
  float value;
};

// By the logit, of equals the lower id: the order of all rankings.
inline bool better(const Candidate& a, const Candidate& b) {
  return a.value != b.value ? a.value > b.value : a.id < b.id;
}

// The likeliest tokens of a row of logits, found where the row lies (TopLogitsArgs).
struct TopRow {
  std::span<const float> values;  // [k] logits, best first, of equals the lower id first
  std::span<const int32_t> ids;   // [k]
  double log_sum_exp;             // over the whole row
  int64_t vocabulary;             // V, the length of the row
};

// How many of the likeliest tokens Sampler::sample_top() should be given for these parameters: at most
// `limit`. 0: only the whole row will do, because the distribution or the report reaches beyond `limit`
// tokens.
int64_t top_logits_for(const SamplingParams& params, int64_t top_logprobs, const TokenConstraint* constraint,
                       int64_t limit, int64_t vocabulary);

// The sampler of one answer.
class Sampler {
 public:
  // params were checked and have a seed. prompt: what repeat_penalty looks back at.
  Sampler(SamplingParams params, std::span<const int32_t> prompt);

  // Draws the next token of the answer from logits [V], f32, and appends it to the history and to the
  // constraint (null: none). A constraint rejects tokens after top_k and the rest have cut; where it rejects
  // all that are left, the likeliest token that it allows is taken. top_logprobs: how many of the most likely
  // tokens to report. Throws WorkError when logits are not finite, or when the constraint allows no token at
  // all.
  SampledToken sample(std::span<const float> logits, int64_t top_logprobs = 0,
                      TokenConstraint* constraint = nullptr);

  // The same token from the likeliest ones alone. Nothing, and no change of any state, where these cannot
  // tell what the whole row would give: a penalty or a bias may have lifted a token from outside, or the
  // constraint rejects all that are certain; sample() then needs the row. Log probabilities are those of
  // sample() up to the rounding of log_sum_exp.
  std::optional<SampledToken> sample_top(const TopRow& top, int64_t top_logprobs = 0,
                                         TokenConstraint* constraint = nullptr);

  uint64_t seed() const { return *params_.seed; }

 private:
  // A step from a logit of the model to the one that is drawn from.
  struct Change {
    enum class Kind { kAdd, kRepeat };
    int32_t id;
    Kind kind;
    float amount;
  };
  enum class TopP { kCut, kCutAlready };
  float changed(float logit, const Change& change) const;
  std::vector<Change> changes() const;
  std::vector<Candidate> certain(const TopRow& top) const;
  std::span<const float> adjusted(std::span<const float> logits);
  int32_t pick(std::span<const float> logits, const TokenConstraint* constraint);
  void collect_candidates(std::span<const float> logits);
  void weigh(float best, TopP top_p);
  int32_t draw(const TokenConstraint* constraint);
  SampledToken take(int32_t id, float logit, double log_sum_exp, TokenConstraint* constraint);

  SamplingParams params_;
  std::vector<int32_t> history_;  // prompt, then answer
  size_t prompt_length_;
  std::vector<float> adjusted_;  // [V], only where bias or penalties change the logits
  std::vector<Candidate> candidates_;
};

// The n largest of values [V], largest first, the lower id on a tie.
std::vector<Candidate> largest(std::span<const float> values, size_t n);

// log of the sum of exp over logits [V]. NaN where one is.
double log_sum_exp(std::span<const float> logits);

}  // namespace onggi

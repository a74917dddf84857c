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

  uint64_t seed() const { return *params_.seed; }

 private:
  std::span<const float> adjusted(std::span<const float> logits);
  int32_t pick(std::span<const float> logits, const TokenConstraint* constraint);
  void collect_candidates(std::span<const float> logits);
  int32_t draw(Random& random, const TokenConstraint* constraint);

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

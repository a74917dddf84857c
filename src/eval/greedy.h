// Greedy answers, one at a time: what parity gates and validation compare.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/inference.h"

namespace onggi {

struct GreedyAnswer {
  std::vector<int32_t> ids;  // with the token that ended it
  bool stopped = false;      // by an end-of-sequence token, not by the limit
  double prompt_seconds = 0, answer_seconds = 0;
};

// The most likely continuation of a prompt of at least one token, at most max_new_tokens long.
GreedyAnswer greedy_answer(const Model& model, const Compute& compute, std::span<const int32_t> prompt,
                           int64_t max_new_tokens);

// Whether an id ends an answer of this model.
bool is_end(const ModelConfig& config, int32_t id);

}  // namespace onggi

// The softmax of causal attention on rows of fp32 scores, for the fp32 path.
#pragma once

#include <cstdint>

namespace onggi::cpu {

// scores [keys]: the first `visible` (at least 1) become exp(score) / sum, the rest 0. Returns log sum exp.
float softmax_row(float* scores, int64_t visible, int64_t keys);

// The first `visible` scores become p = exp(score - log_sum_exp) and dp becomes p (dp - delta); the rest 0.
struct SoftmaxRowBackwardArgs {
  float* scores;
  float* dp;
  int64_t visible, keys;
  float log_sum_exp;
  float delta;
};
void softmax_row_backward(const SoftmaxRowBackwardArgs& args);

// sum a[i] b[i]
float dot_row(const float* a, const float* b, int64_t count);

}  // namespace onggi::cpu

// What a squared error counts: the weights of the encoders' least squares. The defaults are llama.cpp's, so
// that errors compare.
#pragma once

#include <cmath>
#include <cstdint>

namespace onggi {

// With an importance matrix: importance[i] * sqrt(2 * mean square of the block + x[i]^2): the activations'
// energy in column i, and a preference for the large weights of the block. n values.
inline void importance_weights(const float* x, const float* importance, int n, float* out) {
  float squares = 0;
  for (int i = 0; i < n; ++i) squares += x[i] * x[i];
  const float floor = 2 * squares / static_cast<float>(n);
  for (int i = 0; i < n; ++i) out[i] = importance[i] * std::sqrt(floor + x[i] * x[i]);
}

// Q4_K and Q5_K: |x[i]| + root mean square of the sub-block of 32.
inline void magnitude_and_rms_weights(const float* x, int n, float* out) {
  float squares = 0;
  for (int i = 0; i < n; ++i) squares += x[i] * x[i];
  const float rms = std::sqrt(squares / static_cast<float>(n));
  for (int i = 0; i < n; ++i) out[i] = std::fabs(x[i]) + rms;
}

// Q2_K, Q3_K and Q6_K in llama.cpp: |x[i]| and x[i]^2. Taken alone they give a small value no say at all,
// which costs plain squared error; ours add a share of the block's mean and are better by both measures.
inline void magnitude_weights(const float* x, int n, float share_of_rms, float* out) {
  float squares = 0;
  for (int i = 0; i < n; ++i) squares += x[i] * x[i];
  const float floor = share_of_rms * std::sqrt(squares / static_cast<float>(n));
  for (int i = 0; i < n; ++i) out[i] = std::fabs(x[i]) + floor;
}
inline void square_weights(const float* x, int n, float share_of_mean, float* out) {
  float squares = 0;
  for (int i = 0; i < n; ++i) squares += x[i] * x[i];
  const float floor = share_of_mean * squares / static_cast<float>(n);
  for (int i = 0; i < n; ++i) out[i] = x[i] * x[i] + floor;
}

}  // namespace onggi

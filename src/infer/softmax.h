// exp and sums over vocabularies of 150,000 logits, written so that the compiler vectorises them.
#pragma once

#include <bit>
#include <cstdint>
#include <span>

namespace onggi {

// e^x for x <= 0, relative error below 3e-7; 0 below -87. NaN stays NaN. Cody-Waite reduction and a
// polynomial on [-ln2/2, ln2/2] (Taylor to degree 7, whose remainder is below 6e-9 there).
inline float exp_of_negative(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum rounds to an integer
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // The low bits of `shifted` are n: moved to the exponent they multiply by 2^n.
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  const float result = p * std::bit_cast<float>(exponent);
  return x < -87.0f ? 0.0f : result;
}

// The largest of values [V]; V > 0. NaN are passed over.
float max_of(std::span<const float> values);
// The sum of exp((value - shift) * factor) over values [V]; shift is at least each value, factor > 0. NaN
// where a value is NaN.
double sum_of_exp(std::span<const float> values, float shift, float factor);

}  // namespace onggi

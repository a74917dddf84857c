// Sines and cosines of rotary embedding.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onggi::cpu {

// Of one position, f32 [half] each.
struct RotaryAngles {
  const float* cosine;
  const float* sine;
};

// The angles position * theta^(-i / half), i < half, in fp64. Consecutive positions are reached by turning
// the last one's by a step, which costs a multiplication instead of a sine; every 64 steps, and whenever
// positions jump, they are computed anew, so the error stays near 64 roundings of fp64.
class Rotary {
 public:
  static size_t scratch_bytes(int64_t half);
  // `scratch` holds scratch_bytes and outlives this.
  Rotary(int64_t half, double theta, std::byte* scratch);
  // Valid until the next call.
  RotaryAngles angles(int32_t position);

 private:
  void restart(int32_t position);
  void step();

  int64_t half_;
  int64_t next_position_ = -1;
  int steps_ = 0;
  double* frequency_;
  double* step_cosine_;
  double* step_sine_;
  double* cosine_;
  double* sine_;
  float* cosine_f32_;
  float* sine_f32_;
};

}  // namespace onggi::cpu

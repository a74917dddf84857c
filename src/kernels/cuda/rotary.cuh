// Angles of the rotary embedding: accurate at any position, without fp64 arithmetic on the device.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"

namespace onggi::cuda {

inline constexpr int64_t kMaxRotaryPairs = 128;  // D / 2

// turns[i] = theta^(-2i/D) / (2 pi) in units of 2^-64 turns, i < D / 2. The product with a position, modulo
// 2^64, is the angle as a fraction of a turn: whole turns fall away exactly, however large the position.
// Handed to kernels by value, so that it lies in their constant bank and in recordings of them.
struct RotaryFrequencies {
  uint64_t turns[kMaxRotaryPairs];
};

// Made once per stream, theta and head_dim. InternalError where head_dim is odd or above 2 kMaxRotaryPairs.
const RotaryFrequencies& rotary_frequencies(CudaStream& stream, double theta, int64_t head_dim);

struct Rotation {
  float cosine, sine;
};

// Error about 2e-7 radians.
__device__ __forceinline__ Rotation rotation_of(uint64_t turns, int32_t position) {
  const auto fraction = static_cast<int64_t>(turns * static_cast<uint64_t>(int64_t{position}));
  Rotation rotation;
  // [-1, 1) half turns; the conversion to f32 rounds to 2^-25 of the value.
  sincospif(static_cast<float>(fraction) * 0x1p-63f, &rotation.sine, &rotation.cosine);
  return rotation;
}

}  // namespace onggi::cuda

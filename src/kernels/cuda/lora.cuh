// What the kernels of lora.h share.
//
// All of them use mma.sync m16n8k16 with operands straight from global memory, and rest on one choice: in a
// step over 32 columns, lane (group, pair) holds the 8 columns from 8 pair of rows `group` and `group + 8`,
// one 16-byte load each. The four 32-bit words j = 0..3 of such a load are columns 8 pair + 2 j, + 1.
//  - Over the columns (u = x A^T): words 0, 1 and 2, 3 are the operands of two products of depth 16, whose
//    depth is then a permutation of the columns, the same for both sides.
//  - Across the columns (dA = du^T x): words j of all lanes, transposed by movmatrix, are the columns
//    8 (c / 2) + 2 j + c % 2, c = 0..7, of one product of width 8; the sums of column pair 2 pair, + 1 are
//    again those of the lane's own columns 8 pair + 2 j, + 1.
// So a lane draws the random numbers of exactly one group of 8 elements of a mask for each load, and all
// stores are 16 bytes wide too.
#pragma once

#include "base/random.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lora.h"

namespace onggi::cuda {

inline constexpr int kLoraThreads = 256;
inline constexpr int kLoraWarps = kLoraThreads / kWarp;

// Whether rows are whole vectors at addresses divisible by 16.
enum class Rows { kVectors, kAny };

// A row-major matrix of bf16; what lies outside of it reads as zero.
struct Bf16Matrix {
  const BFloat16* data;
  int64_t stride;
  int64_t rows, columns;

  // Elements [column, column + 8) of a row; column is a multiple of 8.
  template <Rows kRows>
  __device__ __forceinline__ uint4 load_8(int64_t row, int64_t column) const {
    if (row >= rows || column >= columns) return make_uint4(0, 0, 0, 0);
    const BFloat16* from = data + row * stride + column;
    if constexpr (kRows == Rows::kVectors) {
      return *reinterpret_cast<const uint4*>(from);
    } else {
      float values[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) values[i] = column + i < columns ? load_f32(from + i) : 0.0f;
      return pack_bf16_8(values);
    }
  }
  bool has_vector_rows() const {
    return columns % 8 == 0 && stride % 8 == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
  }
};

// A matrix [T, R] of bf16, rows `stride` apart.
struct RankMatrix {
  const BFloat16* data;
  int64_t stride, tokens;
  int rank;
};
// The two ranks r, r + 1 (r even) of row t; zero outside of the matrix.
__device__ __forceinline__ uint32_t load_ranks(const RankMatrix& matrix, int64_t t, int r) {
  const int rank = matrix.rank;
  if (t >= matrix.tokens || r >= rank) return 0;
  const BFloat16* from = matrix.data + t * matrix.stride + r;
  if (rank % 2 == 0) return *reinterpret_cast<const uint32_t*>(from);
  const uint32_t low = __bfloat16_as_ushort(from[0]);
  return r + 1 < rank ? low | static_cast<uint32_t>(__bfloat16_as_ushort(from[1])) << 16 : low;
}

__device__ __forceinline__ uint32_t kept_halves(uint32_t draws, uint32_t threshold) {
  return ((draws & 0xFFFFU) >= threshold ? 0x0000FFFFU : 0U) |
         ((draws >> 16) >= threshold ? 0xFFFF0000U : 0U);
}

// What is added to the streams of the members' masks.
__device__ __forceinline__ uint64_t first_stream_of(const LoraMask& mask) {
  return mask.first_stream == nullptr ? 0 : *mask.first_stream;
}

// The mask of elements [element, element + 8): all ones in each 16 bits whose element is kept.
template <Rows kRows>
__device__ __forceinline__ uint4 kept_of_8(const LoraMask& mask, uint64_t stream, int64_t element) {
  const auto first = static_cast<uint64_t>(element);
  const auto draws = philox(mask.seed, stream, first / 8);
  uint32_t words[8] = {draws[0], draws[1], draws[2], draws[3], 0, 0, 0, 0};
  if constexpr (kRows == Rows::kAny) {
    const auto more = philox(mask.seed, stream, first / 8 + 1);
    const auto skipped = static_cast<unsigned>(first % 8);
    const uint32_t all[8] = {draws[0], draws[1], draws[2], draws[3], more[0], more[1], more[2], more[3]};
    const auto draw = [&](unsigned i) { return all[i / 2] >> (16 * (i % 2)) & 0xFFFFU; };
    for (unsigned i = 0; i < 4; ++i) words[i] = draw(skipped + 2 * i) | draw(skipped + 2 * i + 1) << 16;
  }
  return make_uint4(kept_halves(words[0], mask.threshold), kept_halves(words[1], mask.threshold),
                    kept_halves(words[2], mask.threshold), kept_halves(words[3], mask.threshold));
}

__device__ __forceinline__ uint4 operator&(const uint4& x, const uint4& y) {
  return make_uint4(x.x & y.x, x.y & y.y, x.z & y.z, x.w & y.w);
}

// Word j of a vector; j is known at compile time once loops are unrolled.
__device__ __forceinline__ uint32_t word_of(const uint4& v, int j) {
  return j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w;
}

// The operand [16, 16] with rows t and columns r in words (t, r), (t + 8, r), (t, r + 8), (t + 8, r + 8),
// turned into the one with rows r and columns t.
__device__ __forceinline__ void turn_operand(const uint32_t (&from)[4], uint32_t (&to)[4]) {
  to[0] = movmatrix_trans(from[0]);
  to[1] = movmatrix_trans(from[2]);
  to[2] = movmatrix_trans(from[1]);
  to[3] = movmatrix_trans(from[3]);
}

}  // namespace onggi::cuda

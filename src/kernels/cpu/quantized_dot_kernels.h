// Inside the few-token kernels: what the dispatch (quantized_dot.cc) and the files per instruction set share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/quantized_dot.h"
#include "kernels/ops/linear.h"
#include "tensor/dtype.h"

namespace onggi::cpu {

inline constexpr int kSuperElements = 256;              // what block kernels work on at a time
inline constexpr int kSuperSubs = kSuperElements / 16;  // its sub-blocks of 16 values
inline constexpr int kActivationGroup = 32;             // int8 activations that share a scale

// 256 activations of one token as int8: x[i] = scale[i / 16] * q[i]. Weights are unsigned integers u with
//   w[i] = scale_w[i / 16] * u[i] - minimum_w[i / 16],
// so sum w x = sum over sub-blocks of scale_w scale (u . q) - minimum_w scale (sum of q). Formats around a
// middle value (`offset`: 8 for q4_0, 128 for q8_0) have minimum_w = offset * scale_w.
//
// For formats whose scales hold for 32 values the sums of both halves are in the even sub-block, 0 in the
// odd.
struct alignas(64) ActivationBlock {
  int8_t q[kSuperElements];
  float scale[kSuperSubs];    // equal within a pair
  float sum[kSuperSubs];      // scale * sum of q; times the offset for formats with one
  int32_t start[kSuperSubs];  // -offset * sum of q
};
static_assert(sizeof(ActivationBlock) == 448);

inline int64_t super_blocks(int64_t columns) { return (columns + kSuperElements - 1) / kSuperElements; }
inline int64_t activation_block_bytes(int64_t columns) {
  return super_blocks(columns) * static_cast<int64_t>(sizeof(ActivationBlock));
}

struct ActivationScale {
  float scale = 0;
  float inverse = 0;
};
// amax / 127 for a group, from the bits of its largest magnitude. Taken as bits, NaN is above all numbers:
// values that are not finite make the scale, and so every output, not finite. Too small to invert counts as
// zero.
inline ActivationScale activation_scale(int32_t magnitude_bits) {
  const float amax = __builtin_bit_cast(float, magnitude_bits);
  if (amax < 1e-30f) return {};
  return {amax / 127.0f, 127.0f / amax};
}

// Activations as a kernel wants them: units of unit_bytes (an ActivationBlock, or a whole row of bf16), unit
// s of token t at index s * tokens + t, so that a tile of tokens has one address and fixed distances.
struct DotTask {
  const LinearArgs& args;
  const std::byte* activations;  // aligned to 64

  // Unit s of token t; that of token t + 1 follows it.
  template <typename Unit>
  const Unit* unit(int64_t s, int64_t t) const {
    return reinterpret_cast<const Unit*>(activations) + s * args.tokens + t;
  }
  const std::byte* row(int64_t n, int64_t row_bytes) const {
    return static_cast<const std::byte*>(args.weight.data) + n * row_bytes;
  }
  void put(int64_t t, int64_t n, float value) const {
    float& out = args.out[t * args.weight.rows + n];
    out = args.output == Output::kAccumulate ? out + value : value;
  }
};

// One format's kernel for one instruction set.
struct DotKernel {
  // Bytes of one token's prepared activations, a multiple of 64.
  int64_t (*token_bytes)(int64_t columns) = nullptr;
  // Writes those of token t into `activations`; null: the kernel takes x as it is.
  void (*prepare)(const LinearArgs& args, int64_t t, std::byte* activations) = nullptr;
  // Working memory of rows(), bytes.
  int64_t (*scratch_bytes)(const LinearArgs& args) = nullptr;
  // Rows [begin, end) of W for all tokens.
  void (*rows)(const DotTask& task, int64_t begin, int64_t end, std::byte* scratch) = nullptr;
};

// The kernel of a format for a set that the CPU is known to have; rows == nullptr: there is none.
DotKernel portable_dot_kernel(DType dtype);
DotKernel avx2_dot_kernel(DType dtype, DotLevel level);  // kAvx2 or kAvxVnni
DotKernel avx512_dot_kernel(DType dtype);                // block formats; kAvx512Vnni
DotKernel avx512_float_dot_kernel(DType dtype);          // the others; kAvx512Bf16

}  // namespace onggi::cpu

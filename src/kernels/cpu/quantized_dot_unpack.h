// How blocks become 256 unsigned integers with scales, in loops that compilers vectorise for any instruction
// set: inlined into the portable kernel and into the AVX2 one. For each format a struct with
//   kSub, kOffset  as in quantized_dot_avx512_formats.h
//   Super          256 values as they lie in memory
//   unpack()       all values, 16 scales and, where kOffset is 0, 16 minimums
#pragma once

#include <cstdint>

#include "blocks/q2_k.h"
#include "blocks/q3_k.h"
#include "blocks/q4_0.h"
#include "blocks/q4_k.h"
#include "blocks/q5_k.h"
#include "blocks/q6_k.h"
#include "blocks/q8_0.h"
#include "kernels/cpu/quantized_dot_kernels.h"

#define ONGGI_ALWAYS_INLINE __attribute__((always_inline)) inline

namespace onggi::cpu::unpacked {

struct alignas(64) Values {
  uint8_t q[kSuperElements];
  float scales[kSuperSubs];
  float minimums[kSuperSubs];
};

template <typename Block>
struct EightBlocks {
  Block blocks[8];
};

struct Q8_0 {
  static constexpr int kSub = 32, kOffset = 128;
  using Super = EightBlocks<BlockQ8_0>;
  ONGGI_ALWAYS_INLINE static void unpack(const Super& super, Values& out) {
    for (int b = 0; b < 8; ++b) {
      out.scales[2 * b] = out.scales[2 * b + 1] = f16_to_f32(super.blocks[b].d);
      for (int i = 0; i < 32; ++i) out.q[32 * b + i] = static_cast<uint8_t>(super.blocks[b].qs[i] ^ 0x80);
    }
  }
};

struct Q4_0 {
  static constexpr int kSub = 32, kOffset = 8;
  using Super = EightBlocks<BlockQ4_0>;
  ONGGI_ALWAYS_INLINE static void unpack(const Super& super, Values& out) {
    for (int b = 0; b < 8; ++b) {
      out.scales[2 * b] = out.scales[2 * b + 1] = f16_to_f32(super.blocks[b].d);
      for (int i = 0; i < 16; ++i) {
        out.q[32 * b + i] = super.blocks[b].qs[i] & 15;
        out.q[32 * b + 16 + i] = super.blocks[b].qs[i] >> 4;
      }
    }
  }
};

struct Q2K {
  static constexpr int kSub = 16, kOffset = 0;
  using Super = BlockQ2K;
  ONGGI_ALWAYS_INLINE static void unpack(const Super& super, Values& out) {
    const float d = f16_to_f32(super.d), dmin = f16_to_f32(super.dmin);
    for (int s = 0; s < kSuperSubs; ++s) {
      out.scales[s] = d * static_cast<float>(super.scales[s] & 15);
      out.minimums[s] = dmin * static_cast<float>(super.scales[s] >> 4);
    }
    for (int g = 0; g < 8; ++g)
      for (int l = 0; l < 32; ++l) out.q[32 * g + l] = (super.qs[32 * (g / 4) + l] >> (2 * (g % 4))) & 3;
  }
};

struct Q3K {
  static constexpr int kSub = 16, kOffset = 4;
  using Super = BlockQ3K;
  ONGGI_ALWAYS_INLINE static void unpack(const Super& super, Values& out) {
    const float d = f16_to_f32(super.d);
    for (int s = 0; s < kSuperSubs; ++s) out.scales[s] = d * static_cast<float>(q3k_scale(super.scales, s));
    for (int g = 0; g < 8; ++g)
      for (int l = 0; l < 32; ++l)
        out.q[32 * g + l] = static_cast<uint8_t>(((super.qs[32 * (g / 4) + l] >> (2 * (g % 4))) & 3) |
                                                 ((super.hmask[l] >> g) & 1) << 2);
  }
};

template <typename Block>
ONGGI_ALWAYS_INLINE void unpack_six_bit_scales(const Block& super, Values& out) {
  const float d = f16_to_f32(super.d), dmin = f16_to_f32(super.dmin);
  for (int s = 0; s < 8; ++s) {
    const ScaleMin pair = q4k_scale_min(super.scales, s);
    out.scales[2 * s] = out.scales[2 * s + 1] = d * static_cast<float>(pair.scale);
    out.minimums[2 * s] = out.minimums[2 * s + 1] = dmin * static_cast<float>(pair.minimum);
  }
}

struct Q4K {
  static constexpr int kSub = 32, kOffset = 0;
  using Super = BlockQ4K;
  ONGGI_ALWAYS_INLINE static void unpack(const Super& super, Values& out) {
    unpack_six_bit_scales(super, out);
    for (int j = 0; j < 4; ++j)
      for (int l = 0; l < 32; ++l) {
        out.q[64 * j + l] = super.qs[32 * j + l] & 15;
        out.q[64 * j + 32 + l] = super.qs[32 * j + l] >> 4;
      }
  }
};

struct Q5K {
  static constexpr int kSub = 32, kOffset = 0;
  using Super = BlockQ5K;
  ONGGI_ALWAYS_INLINE static void unpack(const Super& super, Values& out) {
    unpack_six_bit_scales(super, out);
    for (int j = 0; j < 4; ++j)
      for (int l = 0; l < 32; ++l) {
        const int low = super.qs[32 * j + l] & 15, high = super.qs[32 * j + l] >> 4;
        out.q[64 * j + l] = static_cast<uint8_t>(low | ((super.qh[l] >> (2 * j)) & 1) << 4);
        out.q[64 * j + 32 + l] = static_cast<uint8_t>(high | ((super.qh[l] >> (2 * j + 1)) & 1) << 4);
      }
  }
};

struct Q6K {
  static constexpr int kSub = 16, kOffset = 32;
  using Super = BlockQ6K;
  ONGGI_ALWAYS_INLINE static void unpack(const Super& super, Values& out) {
    const float d = f16_to_f32(super.d);
    for (int s = 0; s < kSuperSubs; ++s) out.scales[s] = d * static_cast<float>(super.scales[s]);
    for (int h = 0; h < 2; ++h)
      for (int l = 0; l < 64; ++l) {
        const int nibbles = super.ql[64 * h + l], high = super.qh[32 * h + l % 32];
        const int shift = 2 * (l / 32);
        out.q[128 * h + l] = static_cast<uint8_t>((nibbles & 15) | ((high >> shift) & 3) << 4);
        out.q[128 * h + 64 + l] = static_cast<uint8_t>((nibbles >> 4) | ((high >> (shift + 4)) & 3) << 4);
      }
  }
};

// The activations as int8, in loops without an instruction set; see ActivationBlock.
template <typename Format>
ONGGI_ALWAYS_INLINE void prepare_block(const float* x, ActivationBlock& block) {
  int32_t sums[kSuperSubs];
  for (int g = 0; g < kSuperElements / kActivationGroup; ++g) {
    int32_t largest = 0;
    for (int i = 0; i < kActivationGroup; ++i) {
      const int32_t bits = __builtin_bit_cast(int32_t, x[kActivationGroup * g + i]) & 0x7FFFFFFF;
      largest = bits > largest ? bits : largest;
    }
    const ActivationScale scale = activation_scale(largest);
    block.scale[2 * g] = block.scale[2 * g + 1] = scale.scale;
    for (int half = 0; half < 2; ++half) {
      int32_t sum = 0;
      for (int i = 0; i < 16; ++i) {
        const int at = kActivationGroup * g + 16 * half + i;
        // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
        const int32_t q = __builtin_bit_cast(int32_t, x[at] * scale.inverse + 12582912.0f) - 0x4B400000;
        block.q[at] = static_cast<int8_t>(q);
        sum += block.q[at];
      }
      sums[2 * g + half] = sum;
    }
  }
  for (int s = 0; s < kSuperSubs; ++s) {
    int32_t sum = sums[s];
    if (Format::kSub == 32) sum = s % 2 == 0 ? sums[s] + sums[s + 1] : 0;
    if (Format::kOffset != 0) sum *= Format::kOffset;
    block.start[s] = -sum;
    block.sum[s] = block.scale[s] * static_cast<float>(sum);
  }
}

template <typename Format>
ONGGI_ALWAYS_INLINE void prepare(const LinearArgs& args, int64_t t, std::byte* activations) {
  auto* blocks = reinterpret_cast<ActivationBlock*>(activations) + t;
  const int64_t columns = args.weight.columns, whole = columns / kSuperElements;
  const float* x = args.x + t * columns;
  for (int64_t s = 0; s < whole; ++s) prepare_block<Format>(x + kSuperElements * s, blocks[s * args.tokens]);
  if (columns % kSuperElements == 0) return;
  float padded[kSuperElements] = {};
  for (int64_t i = kSuperElements * whole; i < columns; ++i) padded[i - kSuperElements * whole] = x[i];
  prepare_block<Format>(padded, blocks[whole * args.tokens]);
}

// Rows [begin, end), each block unpacked once for all tokens. Dot::add_super(super, task, s, partials) adds
// the 256 products of each token to its 16 partial sums; it is a call, since code for other instruction sets
// may not be inlined here.
inline constexpr int kPartials = 16;

template <typename Format, typename Dot>
void rows(const DotTask& task, int64_t begin, int64_t end, std::byte* scratch) {
  using Super = typename Format::Super;
  const int64_t columns = task.args.weight.columns, tokens = task.args.tokens;
  const int64_t row_bytes = dtype_bytes(task.args.weight.dtype, columns);
  const auto super_bytes = static_cast<int64_t>(sizeof(Super));
  auto* partials = reinterpret_cast<float(*)[kPartials]>(scratch);
  for (int64_t n = begin; n < end; ++n) {
    const std::byte* row = task.row(n, row_bytes);
    for (int64_t t = 0; t < tokens; ++t)
      for (float& partial : partials[t]) partial = 0;
    for (int64_t s = 0; s < super_blocks(columns); ++s) {
      const std::byte* at = row + s * super_bytes;
      const int64_t left = row_bytes - s * super_bytes;
      if (left >= super_bytes) {
        Dot::template add_super<Format>(*reinterpret_cast<const Super*>(at), task, s, partials);
      } else {
        Super padded{};
        __builtin_memcpy(&padded, at, static_cast<size_t>(left));
        Dot::template add_super<Format>(padded, task, s, partials);
      }
    }
    for (int64_t t = 0; t < tokens; ++t) {
      float sum = 0;
      for (const float partial : partials[t]) sum += partial;
      task.put(t, n, sum);
    }
  }
}

inline int64_t scratch_bytes(const LinearArgs& args) {
  return args.tokens * static_cast<int64_t>(sizeof(float[kPartials]));
}

}  // namespace onggi::cpu::unpacked

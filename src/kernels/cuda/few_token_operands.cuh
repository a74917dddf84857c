// How a block makes the operands of a token.
#pragma once

#include <cstddef>

#include "kernels/cuda/few_token_wgmma.h"
#include "kernels/cuda/placed_layout.h"

namespace onggi::cuda {

// The token of a block of kThreads threads: what does not depend on the kernel before comes with the
// constructor.
template <int kThreads>
class TokenOperands {
 public:
  __device__ __forceinline__ TokenOperands(const FewTokenParams& p, int token)
      : p_(p),
        token_(token),
        eights_(p.column_tiles * (kTileColumns / 8)),
        own_(static_cast<int>(threadIdx.x)) {
    // The norm's weights come from far.
    if (p.norm == nullptr) return;
    if (own_ < eights_) load_norm_8(p, 8 * own_, norm_);
    for (int eight = own_ + kThreads; eight < eights_; eight += kThreads)
      if (8 * eight < p.columns) prefetch_l2(p.norm + 8 * eight);
  }

  // Writes the operands and the token's factor. image_rows: the rows of the order of operand_image_word, or
  // 0.
  __device__ __forceinline__ void make(int image_rows) {
    float held[kHeld][8];
    float square = 0, largest = 0;
    const auto take = [&](float(&values)[8]) {
      square += squares_of(values);
      if (p_.norm != nullptr) scale_8(values, norm_);
      largest = fmaxf(largest, largest_of(values));
    };
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (own_ + i * kThreads < eights_) load_input_8(p_, token_, 8 * (own_ + i * kThreads), held[i]);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int eight = own_ + i * kThreads;
      if (eight >= eights_) continue;
      if (i > 0) load_norm(eight);
      take(held[i]);
    }
    for (int eight = own_ + kHeld * kThreads; eight < eights_; eight += kThreads) {
      float values[8];
      load_input_8(p_, token_, 8 * eight, values);
      load_norm(eight);
      take(values);
    }
    const float2 found = together(square, largest);
    const PowerOfTwo power = power_for(found.y);
    if (own_ == 0) {
      float factor = power.inverse;
      if (p_.norm != nullptr) factor *= rsqrtf(found.x / static_cast<float>(p_.columns) + p_.epsilon);
      const_cast<float*>(p_.factors)[token_] = factor;
    }
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (own_ + i * kThreads < eights_) store(image_rows, 8 * (own_ + i * kThreads), power.scale, held[i]);
    for (int eight = own_ + kHeld * kThreads; eight < eights_; eight += kThreads) {
      float values[8];
      load_input_8(p_, token_, 8 * eight, values);
      load_norm(eight);
      if (p_.norm != nullptr) scale_8(values, norm_);
      store(image_rows, 8 * eight, power.scale, values);
    }
  }

 private:
  static constexpr int kHeld = 2;  // eights that a thread keeps; others are read twice
  static constexpr int kWarps = kThreads / kWarp;
  static_assert(kWarps <= kWarp && kWarp % kWarps == 0);

  __device__ __forceinline__ void load_norm(int eight) {
    if (p_.norm != nullptr) load_norm_8(p_, 8 * eight, norm_);
  }
  // The block's sum of squares and largest magnitude, with one barrier.
  static __device__ __forceinline__ float2 together(float square, float largest) {
    __shared__ float2 found[kWarps];
    const float2 of_warp = make_float2(warp_sum(square), warp_max(largest));
    if (lane_index() == 0) found[warp_index()] = of_warp;
    __syncthreads();
    const float2 other = found[lane_index() % kWarps];
    return make_float2(warp_sum<kWarps>(other.x), warp_max<kWarps>(other.y));
  }
  // Eight columns in all kinds of operands that there are.
  __device__ __forceinline__ void store(int image_rows, int column, float scale,
                                        const float (&values)[8]) const {
    for (const Operands operands : {Operands::kF16, Operands::kBF16}) {
      auto* to = static_cast<std::byte*>(const_cast<void*>(operands == Operands::kF16 ? p_.f16 : p_.bf16));
      if (to == nullptr) continue;
      const uint4 packed = pack_operands(operands, scale, values);
      if (image_rows == 0) {
        const int64_t row = static_cast<int64_t>(token_) * p_.column_tiles * kTileColumns;
        *reinterpret_cast<uint4*>(to + 2 * (row + place_of_column(operands, column))) = packed;
        continue;
      }
      const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        *reinterpret_cast<uint32_t*>(to + operand_image_word(operands, image_rows, token_, column, i)) =
            words[i];
    }
  }

  const FewTokenParams& p_;
  int token_, eights_, own_;
  float norm_[8];  // where there is a norm
};

}  // namespace onggi::cuda

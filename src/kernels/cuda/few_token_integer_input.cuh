// The activations of few_token_integer.cuh in shared memory.
//
// Rows of int8, one per token, of all K, padded with zeros to 256 columns. In each 32 columns the column
// 16 h + 4 p + i lies at 8 p + 4 (i / 2) + 2 (i % 2) + h: eight bytes are what lane (g, p) needs. Rows are so
// much longer that the lanes of a load meet all banks.
//
// Beside them the factors of each 32 columns s and token t: entry n = s kTokens + t has its scale at
// 4 (n / 2) + n % 2 and scale times the sum of the whole numbers two floats further.
#pragma once

#include "kernels/cuda/few_token_input.cuh"
#include "kernels/cuda/few_token_integer.h"

namespace onggi::cuda {

// Eight whole numbers of up to 127 in a lane's order.
struct PackedInput {
  uint2 bits;
  int sum;
};
__device__ __forceinline__ PackedInput pack_input(const float4& first, const float4& second, float inverse) {
  const float values[8] = {first.x, second.x, first.y, second.y, first.z, second.z, first.w, second.w};
  uint32_t words[2] = {0, 0};
  int sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int whole = __float2int_rn(values[i] * inverse);
    sum += whole;
    words[i / 4] |= (static_cast<uint32_t>(whole) & 0xFFu) << (8 * (i % 4));
  }
  return {make_uint2(words[0], words[1]), sum};
}
__device__ __forceinline__ float largest_of(const float4& v) {
  return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
}

// Brings x, times the norm's weight, into shared memory; each warp takes 256 columns of a token at a time.
// Squares of x, for the norm, are left in sums of 256.
template <int kTokens, int kWarps>
__device__ __forceinline__ void stage_integer_input(const FewTokenParams& p, const FewTokenIntegerPlan& plan,
                                                    unsigned char* shared) {
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  const int pieces = (p.columns + 255) / 256;
  auto* factors = reinterpret_cast<float*>(shared + plan.factors);
  auto* squares = reinterpret_cast<float*>(shared + plan.squares);
  for (int token = 0; token < p.tokens; ++token) {
#pragma unroll 2
    for (int piece = warp_index(); piece < pieces; piece += kWarps) {
      const int column = 256 * piece + 32 * group + 4 * pair;
      float4 first = load_input_4(p, token, column);
      float4 second = load_input_4(p, token, column + 16);
      if (p.norm != nullptr) {
        const float4 a = load_norm_4(p, column), b = load_norm_4(p, column + 16);
        const float square = warp_sum(squares_of(first) + squares_of(second));
        if (lane == 0) squares[token * pieces + piece] = square;
        first = make_float4(first.x * a.x, first.y * a.y, first.z * a.z, first.w * a.w);
        second = make_float4(second.x * b.x, second.y * b.y, second.z * b.z, second.w * b.w);
      }
      const float largest = warp_max<4>(fmaxf(largest_of(first), largest_of(second)));
      const float scale = largest * (1.0f / 127.0f);
      const PackedInput packed = pack_input(first, second, largest > 0 ? 127.0f / largest : 0.0f);
      *reinterpret_cast<uint2*>(shared + token * plan.row_bytes + 256 * piece + 8 * lane) = packed.bits;
      const int sum = warp_sum<4>(packed.sum);
      if (pair == 0) {
        const int entry = (8 * piece + group) * kTokens + token;
        factors[4 * (entry / 2) + entry % 2] = scale;
        factors[4 * (entry / 2) + entry % 2 + 2] = scale * static_cast<float>(sum);
      }
    }
  }
}

// 1 / rms(x) of each token (1 without a norm), from the sums of squares that all warps have left.
template <int kWarps>
__device__ __forceinline__ void finish_norm(const FewTokenParams& p, const FewTokenIntegerPlan& plan,
                                            unsigned char* shared) {
  static_assert(kFewTokenIntegerMost <= kWarps);
  const int token = warp_index();
  if (token >= p.tokens) return;
  const int pieces = (p.columns + 255) / 256;
  const auto* squares = reinterpret_cast<const float*>(shared + plan.squares) + token * pieces;
  float inverse = 1;
  if (p.norm != nullptr) {
    float sum = 0;
    for (int piece = lane_index(); piece < pieces; piece += kWarp) sum += squares[piece];
    inverse = rsqrtf(warp_sum(sum) / static_cast<float>(p.columns) + p.epsilon);
  }
  if (lane_index() == 0) reinterpret_cast<float*>(shared + plan.inverse_rms)[token] = inverse;
}

}  // namespace onggi::cuda

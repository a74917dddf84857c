// The activations of few_token_tensor.cuh in shared memory.
//
// Rows of bf16, one per token, of a slice of K, padded with zeros to 256 columns. In each 32 columns the
// column 16 h + 4 p + i lies at 8 p + 4 h + i: unit p, 16 bytes, is what lane (g, p) needs for two products
// of depth 16. Units of 16 bytes are permuted within their 64 bytes (input_unit) and rows are 64 bytes longer
// than their columns, so that the lanes of a load meet all banks, in the order of tiles and in that of NF4.
//
// Beside them the sums of every 16 columns, [slice / 16][tokens of the kernel] f32: products are made with
// weights + kBias, and kBias times these sums is taken off again.
#pragma once

#include "kernels/cuda/few_token.cuh"

namespace onggi::cuda {

__host__ __device__ constexpr int input_row_bytes(int slice_columns) { return 2 * slice_columns + 64; }

// The place of unit p of 32 columns `group` in the row of a token.
__device__ __forceinline__ int input_unit(int token, int group, int p) {
  return p ^ (group & 3) ^ (token & 2);
}

// Four columns from k on; zeros beyond K.
__device__ __forceinline__ float4 load_input_4(const FewTokenParams& p, int token, int k) {
  const int64_t at = token * p.x_stride + k;
  if (p.x_has_vectors && k + 4 <= p.columns) {
    if (!p.x_is_bf16) return *reinterpret_cast<const float4*>(static_cast<const float*>(p.x) + at);
    const uint2 bits = *reinterpret_cast<const uint2*>(static_cast<const BFloat16*>(p.x) + at);
    const float2 low = unpack_bf16(bits.x), high = unpack_bf16(bits.y);
    return make_float4(low.x, low.y, high.x, high.y);
  }
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    values[i] = k + i < p.columns ? load_activation(p.x, p.x_is_bf16, at + i) : 0.0f;
  return make_float4(values[0], values[1], values[2], values[3]);
}
__device__ __forceinline__ float4 load_norm_4(const FewTokenParams& p, int k) {
  if (k + 4 <= p.columns && reinterpret_cast<uintptr_t>(p.norm) % 16 == 0)
    return *reinterpret_cast<const float4*>(p.norm + k);
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = k + i < p.columns ? p.norm[k + i] : 0.0f;
  return make_float4(values[0], values[1], values[2], values[3]);
}

__device__ __forceinline__ float squares_of(const float4& v) {
  return fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, v.w * v.w)));
}
// The sum of the four values as bf16 has them; the values become their bits.
__device__ __forceinline__ float round_4(const float4& v, uint32_t& low, uint32_t& high) {
  low = pack_bf16(v.x, v.y);
  high = pack_bf16(v.z, v.w);
  const float2 a = unpack_bf16(low), b = unpack_bf16(high);
  return (a.x + a.y) + (b.x + b.y);
}

// Brings the block's slice of x, times the norm's weight, into shared memory. The norm's factor 1 / rms(x) of
// each token goes to inverse_rms (1 without a norm): it is applied to the finished sums. Each warp takes 256
// columns of a token at a time.
template <int kTokens, int kWarps>
__device__ __noinline__ void stage_input(const FewTokenParams& p, unsigned char* shared) {
  const int slice_begin = static_cast<int>(blockIdx.y) * p.slice_columns;
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  const int row_bytes = input_row_bytes(p.slice_columns);
  const int pieces = p.slice_columns / 256;
  auto* sums = reinterpret_cast<float*>(shared + p.shared.sums);
  auto* squares = reinterpret_cast<float*>(shared + p.shared.squares);
  auto* inverse_rms = reinterpret_cast<float*>(shared + p.shared.inverse_rms);
#pragma unroll 4
  for (int task = warp_index(); task < p.tokens * pieces; task += kWarps) {
    const int token = task / pieces, piece = task % pieces;
    const int column = 256 * piece + 32 * group + 4 * pair;
    float4 first = load_input_4(p, token, slice_begin + column);
    float4 second = load_input_4(p, token, slice_begin + column + 16);
    if (p.norm != nullptr) {
      const float square = warp_sum(squares_of(first) + squares_of(second));
      if (lane == 0) squares[task] = square;
      const float4 a = load_norm_4(p, slice_begin + column), b = load_norm_4(p, slice_begin + column + 16);
      first = make_float4(first.x * a.x, first.y * a.y, first.z * a.z, first.w * a.w);
      second = make_float4(second.x * b.x, second.y * b.y, second.z * b.z, second.w * b.w);
    }
    uint4 bits;
    const float first_sum = warp_sum<4>(round_4(first, bits.x, bits.y));
    const float second_sum = warp_sum<4>(round_4(second, bits.z, bits.w));
    const int unit = 4 * (8 * piece + group) + input_unit(token, group, pair);
    *reinterpret_cast<uint4*>(shared + token * row_bytes + 16 * unit) = bits;
    if (pair < 2) {
      const int sixteen = 16 * piece + 2 * group + pair;
      sums[sixteen * kTokens + token] = pair == 0 ? first_sum : second_sum;
    }
  }
  for (int i = threadIdx.x; i < 512 / 4; i += kWarps * kWarp)
    reinterpret_cast<uint32_t*>(shared + p.shared.zeros)[i] = 0;
  __syncthreads();
  for (int token = threadIdx.x; token < p.tokens; token += kWarps * kWarp) {
    float sum = 0;
    if (p.norm != nullptr) {
      for (int piece = 0; piece < pieces; ++piece) sum += squares[token * pieces + piece];
    }
    inverse_rms[token] = p.norm != nullptr ? rsqrtf(sum / static_cast<float>(p.columns) + p.epsilon) : 1.0f;
  }
}

// Reads the operands of the products for a lane: B of mma.m16n8k16, whose columns are the tokens.
//
// kSpread > 1 gives the columns that 8 / kSpread tokens leave free to other parts of K: column
// 8 / kSpread * e + t is token t with every kSpread-th unit of columns (the columns of one scale), those with
// index e modulo kSpread, and zeros elsewhere. The products of kSpread units then add up into one set of sums
// of which each lane scales only its own, instead of all four lanes of a row scaling them all.
template <int kTiles, int kSpread>
struct InputReader {
  static constexpr int kColumnTokens = 8 / kSpread;

  const unsigned char* row[kTiles];  // of the lane's token in each tile of 8 columns, at the tile of weights
  const unsigned char* zeros;
  int unit[4];  // bytes to unit `pair` in 32 columns number s, by s % 4
  int group;    // lane / 4
  int pair;     // lane % 4
  int swizzle;  // what unit indices of the lane's token are permuted with

  __device__ __forceinline__ InputReader(const FewTokenParams& p, const unsigned char* shared) {
    const int lane = lane_index();
    group = lane / 4;
    pair = lane % 4;
    zeros = shared + p.shared.zeros;
    const int column_token = group % kColumnTokens;
    swizzle = column_token & 2;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int token = 8 * n + column_token;
      // Columns of tokens that are not there repeat one that is: nobody reads their sums.
      const int clamped = token < p.tokens ? token : p.tokens - 1;
      row[n] = shared + clamped * input_row_bytes(p.slice_columns);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) unit[i] = 16 * (pair ^ i ^ swizzle);
  }

  // Whether the lane's column takes part in a unit of columns.
  __device__ __forceinline__ bool takes(int scale_unit) const {
    return kSpread == 1 || scale_unit % kSpread == group / kColumnTokens;
  }
  __device__ __forceinline__ const unsigned char* base(int n, int offset, int scale_unit) const {
    return takes(scale_unit) ? row[n] + offset : zeros;
  }
};

}  // namespace onggi::cuda

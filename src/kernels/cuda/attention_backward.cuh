// What the kernels of attention's backward pass share.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_tiles.cuh"

namespace onggi::cuda {

// With p = exp(scale q k - log_sum_exp), the weight of a key for a query, and delta = sum(dout * out) of the
// query:  dv = sum p dout;  ds = p (dout v - delta);  dq = scale sum ds k;  dk = scale sum ds q.
struct Backward {
  const BFloat16* dout;      // [T, Hq, D]
  const BFloat16* q;         // [T, Hq, D]
  const BFloat16* k;         // [T, Hkv, D]
  const BFloat16* v;         // [T, Hkv, D]
  const float2* statistics;  // [Hq, T rounded up to kStatisticsRows]: see statistics_kernel
  const int32_t* first_row;  // [T]
  const int32_t* end_row;    // [T]
  const int32_t* order;      // tiles in the order of the blocks, or null
  BFloat16* dq;              // [T, Hq, D]
  BFloat16* dk;              // [T, Hkv, D]
  BFloat16* dv;              // [T, Hkv, D]
  int tokens, statistics_stride, query_heads, kv_heads;
  float scale;
};

// The two kernels of the fast path; head_dim 64 or 128. p.order is theirs: tiles of kBackwardRows keys
// (kRowsAfter) or queries (kRowsBefore).
void attention_backward_keys(CudaStream& stream, const Backward& p, int64_t head_dim);
void attention_backward_queries(CudaStream& stream, const Backward& p, int64_t head_dim);
inline constexpr int kBackwardRows = 128;
// The same for is_hopper() and head_dim 128.
void attention_backward_keys_sm90(CudaStream& stream, const Backward& p);
void attention_backward_queries_sm90(CudaStream& stream, const Backward& p);

// Tiles of queries read whole tiles of statistics.
inline constexpr int kStatisticsRows = 128;

// p and ds of a score (q k, not scaled). statistics: {log_sum_exp in exponents of 2, delta}.
struct WeightAndGradient {
  float weight, gradient;
};
__device__ __forceinline__ WeightAndGradient backward_of_score(float score, float dweight, float scale_log2,
                                                               float2 statistics) {
  const float weight = exp2_approx(fmaf(score, scale_log2, -statistics.x));
  return {weight, weight * (dweight - statistics.y)};
}

}  // namespace onggi::cuda

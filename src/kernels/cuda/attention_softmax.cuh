// The streaming softmax of a warp's 16 rows (Milakov and Gimelshein 2018), in exponents of 2.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"

namespace onggi::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;
inline constexpr float kNoShift = 1e30f;
inline constexpr float kSlack = 8;

// Of rows g and g + 8 of lane 4 g + i.
struct RowSums {
  float sum[2] = {};  // of 2^(score + shift), over this lane's columns
  // Minus a score that no other exceeds by more than kSlack: usually the largest so far. At first beyond all
  // scores, so that whatever was summed before the first key comes to nothing.
  float shift[2] = {kNoShift, kNoShift};
};

// Scores of keys key .. that a row must not see become -infinity. `row`: the warp's first; rows beyond the
// last token see anything.
template <int kBlocks>
__device__ __forceinline__ void mask_scores(float (&scores)[kBlocks][4], const int32_t* first_row, int tokens,
                                            int row, int key) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = row + 8 * h + group, first = first_row[min(query, tokens - 1)];
#pragma unroll
    for (int n = 0; n < kBlocks; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = key + 8 * n + 2 * pair + i;
        if (column > query || column < first) scores[n][2 * h + i] = -INFINITY;
      }
  }
}

// Where a score exceeds -shift by more than kSlack, in any row of the warp, the shifts follow the largest
// scores: what was summed before must then be multiplied by `factor`. Which after the first keys is rare.
template <int kBlocks>
__device__ __forceinline__ bool follow_scores(const float (&scores)[kBlocks][4], RowSums& rows,
                                              float scale_log2, float (&factor)[2]) {
  float largest[2];
  bool exceeds = false;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float own = fmaxf(scores[0][2 * h], scores[0][2 * h + 1]);
#pragma unroll
    for (int n = 1; n < kBlocks; ++n) own = fmaxf(own, fmaxf(scores[n][2 * h], scores[n][2 * h + 1]));
    largest[h] = warp_max<4>(own) * scale_log2;
    exceeds |= largest[h] + rows.shift[h] > kSlack;
  }
  if (!__any_sync(kAllLanes, exceeds)) return false;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float shift = fminf(rows.shift[h], -largest[h]);
    factor[h] = exp2_approx(shift - rows.shift[h]);
    rows.shift[h] = shift;
    rows.sum[h] *= factor[h];
  }
  return true;
}

template <int kBlocks>
__device__ __forceinline__ void rescale(float (&sums)[kBlocks][4], const float (&factor)[2]) {
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[n][i] *= factor[i / 2];
}

// Scores become 2^(scale_log2 score + shift), and are added up.
template <int kBlocks>
__device__ __forceinline__ void exponentiate(float (&scores)[kBlocks][4], RowSums& rows, float scale_log2) {
#pragma unroll
  for (int n = 0; n < kBlocks; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[n][i] = exp2_approx(fmaf(scores[n][i], scale_log2, rows.shift[i / 2]));
      rows.sum[i / 2] += scores[n][i];
    }
}

// Stores log_sum_exp (null: not) of the rows before `tokens`; factor[] is what divides the rows' sums.
__device__ __forceinline__ void finish_rows(const RowSums& rows, int row, int tokens, int head, int heads,
                                            float* log_sum_exp, float (&factor)[2]) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float sum = warp_sum<4>(rows.sum[h]);
    const int query = row + 8 * h + group;
    factor[h] = 1.0f / sum;
    if (log_sum_exp != nullptr && pair == 0 && query < tokens)
      log_sum_exp[static_cast<int64_t>(query) * heads + head] = (log2_approx(sum) - rows.shift[h]) * kLn2;
  }
}

}  // namespace onggi::cuda

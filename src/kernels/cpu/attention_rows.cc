#include "kernels/cpu/attention_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/bf16_product.h"
#include "kernels/cpu/exp_avx512.h"

namespace onggi::cpu {
namespace {

ONGGI_AVX512_BF16 inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? 0xFFFF : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Dwords (low, high) of 16 pairs of values, as bf16.
ONGGI_AVX512_BF16 inline __m512i pairs_of(__m512 low, __m512 high) {
  const __m512i low_words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(low));
  const __m512i high_words = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(high));
  return _mm512_or_si512(low_words, _mm512_slli_epi32(high_words, 16));
}

ONGGI_AVX512_BF16 inline void store_bf16(uint16_t* out, __mmask16 mask, __m512 values) {
  _mm256_mask_storeu_epi16(out, mask, (__m256i)_mm512_cvtneps_pbh(values));
}

ONGGI_AVX512_BF16 float row_maximum(const float* x, int64_t count) {
  __m512 maximum = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    maximum = _mm512_mask_max_ps(maximum, mask, maximum, _mm512_maskz_loadu_ps(mask, x + i));
  }
  return _mm512_reduce_max_ps(maximum);
}

ONGGI_AVX512_BF16 void scale_row(float* x, int64_t count, float factor) {
  const __m512 factors = _mm512_set1_ps(factor);
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 mask = first_lanes(count - i);
    _mm512_mask_storeu_ps(x + i, mask, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factors));
  }
}

// p of 16 keys of one row, zero from key `visible` on.
struct RowGradient {
  __m512 p;
  __m512 ds;
};
ONGGI_AVX512_BF16 inline RowGradient gradient_of(const SoftmaxBackwardArgs& args, int64_t row, int64_t key) {
  const int64_t visible = args.first_visible + row + 1 - key;
  const __mmask16 mask = first_lanes(row < args.rows ? std::min(visible, args.keys - key) : 0);
  if (mask == 0) return {_mm512_setzero_ps(), _mm512_setzero_ps()};
  const __m512 scores = _mm512_maskz_loadu_ps(mask, args.scores + row * args.keys_row + key);
  const __m512 dp = _mm512_maskz_loadu_ps(mask, args.dp + row * args.keys_row + key);
  const __m512 lse = _mm512_set1_ps(args.log_sum_exp[row * args.lse_row]);
  const __m512 p = _mm512_maskz_mov_ps(mask, exp_avx512(_mm512_sub_ps(scores, lse)));
  return {p, _mm512_mul_ps(p, _mm512_sub_ps(dp, _mm512_set1_ps(args.delta[row])))};
}

}  // namespace

ONGGI_AVX512_BF16 void scale_rows(const ScaleRowsArgs& args) {
  const __m512 scale = _mm512_set1_ps(args.scale);
  for (int64_t r = 0; r < args.rows; ++r)
    for (int64_t i = 0; i < args.width; i += 16) {
      const __mmask16 mask = first_lanes(args.width - i);
      const __m512 values = _mm512_maskz_loadu_ps(mask, args.x + r * args.x_row + i);
      store_bf16(args.out + r * args.width + i, mask, _mm512_mul_ps(values, scale));
    }
}

ONGGI_AVX512_BF16 void interleave_columns(const InterleaveArgs& args) {
  const __m512 scale = _mm512_set1_ps(args.scale);
  for (int64_t r = 0; r < args.rows; r += 2)
    for (int64_t i = 0; i < args.width; i += 16) {
      const __mmask16 mask = first_lanes(args.width - i);
      const float* x = args.x + r * args.x_row + i;
      const __m512 low = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x), scale);
      const __m512 high = r + 1 < args.rows
                              ? _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + args.x_row), scale)
                              : _mm512_setzero_ps();
      _mm512_storeu_si512(
          args.out + i / kPanelLanes * args.panel_stride + r / 2 * kPanelLanes + i % kPanelLanes,
          pairs_of(low, high));
    }
}

ONGGI_AVX512_BF16 void softmax_step(const SoftmaxStepArgs& args) {
  for (int64_t r = 0; r < args.rows; ++r) {
    const float* scores = args.scores + r * args.scores_row;
    uint16_t* p = args.p + r * args.p_row;
    const int64_t visible = std::clamp<int64_t>(args.first_visible + r + 1, 0, args.keys);
    const float old_maximum = args.first ? -std::numeric_limits<float>::infinity() : args.maximum[r];
    const float maximum = std::max(old_maximum, row_maximum(scores, visible));
    const __m512 maximums = _mm512_set1_ps(maximum);
    __m512 sums = _mm512_setzero_ps();
    for (int64_t i = 0; i < args.keys; i += 16) {
      const __mmask16 mask = first_lanes(visible - i);
      __m512 values = _mm512_setzero_ps();
      if (mask != 0)
        values = _mm512_maskz_mov_ps(
            mask, exp_avx512(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, scores + i), maximums)));
      sums = _mm512_add_ps(sums, values);
      store_bf16(p + i, first_lanes((args.keys + 1) / 2 * 2 - i), values);
    }
    const float correction = args.first ? 0.0f : std::exp(old_maximum - maximum);
    args.sum[r] = (args.first ? 0.0f : args.sum[r] * correction) + _mm512_reduce_add_ps(sums);
    args.maximum[r] = maximum;
    if (!args.first && correction != 1.0f) scale_row(args.out + r * args.out_row, args.head_dim, correction);
  }
}

void normalize_rows(float* out, int64_t out_row, int64_t rows, int64_t head_dim, const float* sum) {
  for (int64_t r = 0; r < rows; ++r) scale_row(out + r * out_row, head_dim, 1.0f / sum[r]);
}

ONGGI_AVX512_BF16 void row_dots(const float* dout, const float* out, int64_t row, int64_t rows,
                                int64_t head_dim, float* delta) {
  for (int64_t r = 0; r < rows; ++r) {
    __m512 sums = _mm512_setzero_ps();
    for (int64_t i = 0; i < head_dim; i += 16) {
      const __mmask16 mask = first_lanes(head_dim - i);
      sums = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, dout + r * row + i),
                             _mm512_maskz_loadu_ps(mask, out + r * row + i), sums);
    }
    delta[r] = _mm512_reduce_add_ps(sums);
  }
}

ONGGI_AVX512_BF16 void softmax_backward(const SoftmaxBackwardArgs& args) {
  for (int64_t r = 0; r < args.rows; r += 2)
    for (int64_t key = 0; key < args.keys; key += 16) {
      const RowGradient even = gradient_of(args, r, key), odd = gradient_of(args, r + 1, key);
      const int64_t pair = r / 2 * args.keys_row + key;
      _mm512_storeu_si512(args.p_pairs + pair, pairs_of(even.p, odd.p));
      _mm512_storeu_si512(args.ds_pairs + pair, pairs_of(even.ds, odd.ds));
      store_bf16(args.ds + r * args.keys_row + key, 0xFFFF, even.ds);
      if (r + 1 < args.rows) store_bf16(args.ds + (r + 1) * args.keys_row + key, 0xFFFF, odd.ds);
    }
}

}  // namespace onggi::cpu

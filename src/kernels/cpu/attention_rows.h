// The steps between the products of bf16 attention, a block of rows at a time. Need has_avx512_bf16().
#pragma once

#include <cstdint>

namespace onggi::cpu {

// out [rows, width] bf16 = x * scale; x f32 with row stride x_row.
struct ScaleRowsArgs {
  const float* x;
  int64_t x_row;
  int64_t rows, width;
  float scale;
  uint16_t* out;  // row stride `width`
};
void scale_rows(const ScaleRowsArgs& args);

// Panels (bf16_product.h) whose columns are the columns of x [rows, width], times scale; an odd last row is
// paired with zeros. Panel i starts at out + i * panel_stride dwords, pairs 32 dwords apart.
struct InterleaveArgs {
  const float* x;
  int64_t x_row;
  int64_t rows, width;
  float scale;
  int64_t panel_stride;
  uint32_t* out;
};
void interleave_columns(const InterleaveArgs& args);

// One step of the streaming softmax on scores [rows, keys]: row r may see keys [0, first_visible + r] of the
// block (none if negative). Writes probabilities relative to the new maximum as bf16 [rows, p_row], zero
// where unseen, up to an even number of keys; updates maximum and sum [rows]; and multiplies what `out`
// [rows, head_dim] already holds by exp(old maximum - new maximum), unless this is the first block.
struct SoftmaxStepArgs {
  const float* scores;
  int64_t scores_row;
  int64_t rows, keys;
  int64_t first_visible;
  uint16_t* p;
  int64_t p_row;
  float* maximum;
  float* sum;
  float* out;
  int64_t out_row;
  int64_t head_dim;
  bool first = false;
};
void softmax_step(const SoftmaxStepArgs& args);

// out row r *= 1 / sum[r].
void normalize_rows(float* out, int64_t out_row, int64_t rows, int64_t head_dim, const float* sum);

// delta[r] = dout[r] . out[r], rows with stride `row`.
void row_dots(const float* dout, const float* out, int64_t row, int64_t rows, int64_t head_dim, float* delta);

// The gradient of the softmax on a block: p = exp(scores - log_sum_exp[r * lse_row]) where visible (as
// above), else 0; ds = p (dp - delta[r]). Writes p and ds as pairs of rows, dword [r / 2][key] with row
// stride `keys_row` dwords, and ds also as bf16 rows [rows, keys_row]. An odd last row is paired with zeros.
struct SoftmaxBackwardArgs {
  const float* scores;  // [rows, keys_row]
  const float* dp;      // [rows, keys_row]
  int64_t keys_row;
  int64_t rows, keys;
  int64_t first_visible;
  const float* log_sum_exp;
  int64_t lse_row;
  const float* delta;
  uint32_t* p_pairs;
  uint32_t* ds_pairs;
  uint16_t* ds;
};
void softmax_backward(const SoftmaxBackwardArgs& args);

}  // namespace onggi::cpu

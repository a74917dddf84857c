// Training attention with fp32 products by oneDNN, on any processor.
#pragma once

#include "kernels/ops/attention.h"

namespace onggi::cpu {

// A block of query rows of one head against keys and values in f32, [tokens, D] with row stride kv_row.
struct QueriesF32Args {
  const float* q;
  float* out;
  int64_t q_row;     // of q and out
  int64_t rows;      // at most kQueryRowsF32
  int64_t position;  // row r sees the keys 0 .. position + r
  const float* k;
  const float* v;
  int64_t kv_row;
  int64_t head_dim;
  float scale;
  float* scores;       // scratch, [rows, position + rows]
  float* log_sum_exp;  // of row r at r * log_sum_exp_row; null: not kept
  int64_t log_sum_exp_row;
};
inline constexpr int64_t kQueryRowsF32 = 64;
void attend_f32(const QueriesF32Args& args);

void attention_f32(const OpContext& context, const AttentionArgs& args);
void attention_backward_f32(const OpContext& context, const AttentionBackwardArgs& args);

}  // namespace onggi::cpu

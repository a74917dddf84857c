// A block of query rows against packed keys and values: the core of attention's forward in bf16, for training
// and for the cache. Needs has_avx512_bf16().
#pragma once

#include <cstdint>

#include "kernels/cpu/attention_panels.h"

namespace onggi::cpu {

// The keys and values of one head, rounded to bf16.
struct PackedKeys {
  uint32_t* keys;    // panels with a column per key: panel_dwords(D, count)
  uint32_t* values;  // panels with a column per dimension: panel_dwords(count, D)
  int64_t count;
};
PackedKeys carve_keys(Carver& carver, int64_t count, int64_t head_dim);
// Packs keys and values [first, first + rows), f32 with a common row stride; first a multiple of 32, as is
// every `rows` but the last.
struct PackKeysArgs {
  const float* k;
  const float* v;
  int64_t row;
  int64_t first, rows;
  int64_t head_dim;
};
void pack_keys(const PackKeysArgs& args, const PackedKeys& packed);

struct QueryScratch {
  uint16_t* q;     // bf16 [rows, D], scaled
  float* scores;   // one block of keys
  uint16_t* p;     // the same in bf16
  float* maximum;  // [rows]
  float* sum;      // [rows]
};
QueryScratch carve_queries(Carver& carver, int64_t head_dim);

struct QueriesArgs {
  const float* q;  // f32 [rows, D], row stride q_row
  float* out;      // likewise
  int64_t q_row;
  int64_t rows;      // any
  int64_t position;  // row r sees the keys 0 .. position + r
  int64_t head_dim;
  float scale;
  float* log_sum_exp;  // of row r at r * log_sum_exp_row; null: not kept
  int64_t log_sum_exp_row;
};
void attend(const QueriesArgs& args, const PackedKeys& packed, const QueryScratch& scratch);

}  // namespace onggi::cpu

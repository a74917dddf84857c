// Attention of few query rows over a paged cache: the keys and values are read once, straight from the cache.
#pragma once

#include <cstdint>

#include "kernels/ops/attention.h"

namespace onggi::cpu {

// The rows of one cached key/value head, in the order of the tokens.
struct CachedHead {
  const KvLayer& cache;
  const int32_t* pages;
  int64_t kv_heads, head_dim;
  int64_t kv_head;
};

// Cached keys (or values) [first, first + count) as f32 [count, D].
enum class CacheSide { kKeys, kValues };
void load_cached(const CachedHead& head, CacheSide side, int64_t first, int64_t count, float* out);

// Writes one vector of a new token into the cache.
void store_cached(const CachedHead& head, CacheSide side, int64_t token, const float* vector);

// The queries of one group of heads against the cached tokens [first, first + count).
struct DecodeArgs {
  CachedHead head;
  const float* q;  // query (row r, head h of the group) at r * q_row + h * D
  int64_t q_row;
  int64_t rows, group;
  int64_t position;  // row r sees the tokens 0 .. position + r
  int64_t first, count;
  float scale;
  float* scratch;  // decode_scratch_floats
  // Results of (r, h) at index r * group + h times the stride: out [D] divided by `sum`, the sum of exp(score
  // - maximum). Where no token is visible, sum is 0 and out is 0.
  float* out;
  int64_t out_row, out_head;  // strides in elements
  float* maximum;             // [rows, group]
  float* sum;                 // [rows, group]
};
inline constexpr int64_t kDecodeBlock = 16;  // tokens widened to f32 at a time: 8 KiB at D = 128
int64_t decode_scratch_floats(int64_t queries, int64_t count, int64_t head_dim);
void decode_attention(const DecodeArgs& args);

}  // namespace onggi::cpu

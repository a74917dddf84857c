// Causal attention with grouped heads: over packed segments for training, over a paged cache for inference.
#pragma once

#include <cstdint>

#include "kernels/ops/context.h"
#include "tensor/dtype.h"

namespace onggi {

// Query head h uses key/value head h / (Hq / Hkv). A token attends to the tokens of its own segment up to
// itself. Streaming softmax (Milakov and Gimelshein 2018; Dao et al. 2022): no T x T matrix in memory.
struct AttentionArgs {
  const float* q;                 // f32 [T, Hq, D]
  const float* k;                 // f32 [T, Hkv, D]
  const float* v;                 // f32 [T, Hkv, D]
  const int32_t* segment_starts;  // i32 [S + 1], ascending, first 0, last T
  int64_t segments;               // S
  int64_t tokens, query_heads, kv_heads, head_dim;
  float scale;  // 1 / sqrt(D)
  float* out;   // f32 [T, Hq, D]
  float*
      log_sum_exp;  // f32 [T, Hq]: log of sum over keys of exp(scale q.k), kept for backward; null: not kept
  Precision precision = Precision::kFast;
};

struct AttentionBackwardArgs {
  const float* dout;  // f32 [T, Hq, D]
  const float* q;     // as in the forward
  const float* k;
  const float* v;
  const float* out;
  const float* log_sum_exp;
  const int32_t* segment_starts;
  int64_t segments;
  int64_t tokens, query_heads, kv_heads, head_dim;
  float scale;
  float* dq;  // f32 [T, Hq, D], overwritten
  float* dk;  // f32 [T, Hkv, D], overwritten
  float* dv;  // f32 [T, Hkv, D], overwritten
  Precision precision = Precision::kFast;
};

// One layer of a paged KV cache: page p holds [P, Hkv, D] keys from element p * P * Hkv * D on; values
// likewise.
struct KvLayer {
  void* keys;           // dtype [pages, P, Hkv, D]
  void* values;         // dtype [pages, P, Hkv, D]
  DType dtype;          // kF32, kF16 or kBF16
  int32_t page_tokens;  // P
};

// The rows of one sequence in an inference pass.
struct SequenceRows {
  const int32_t* pages;  // page of cache tokens [j P, (j + 1) P) at index j
  int32_t first_row;     // its rows in the pass: first_row .. first_row + rows - 1
  int32_t rows;
  int32_t past;  // tokens in the cache before this pass; row i has position past + i
};

// Writes the new keys and values of each sequence into its pages (page tables already hold the needed pages).
struct KvStoreArgs {
  const float* k;  // f32 [T, Hkv, D]
  const float* v;  // f32 [T, Hkv, D]
  KvLayer cache;
  const SequenceRows* sequences;  // [S]
  int64_t sequence_count;
  int64_t kv_heads, head_dim;
};

// out of each row over the cached tokens 0 .. past + i of its sequence, its own included (KvStore ran
// before).
struct CachedAttentionArgs {
  const float* q;  // f32 [T, Hq, D]
  KvLayer cache;
  const SequenceRows* sequences;  // [S]
  int64_t sequence_count;
  int64_t tokens, query_heads, kv_heads, head_dim;
  float scale;
  float* out;  // f32 [T, Hq, D]
};

}  // namespace onggi

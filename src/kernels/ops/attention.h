// Causal attention with grouped heads: over packed segments for training, over a paged cache for inference.
#pragma once

#include <cstdint>

#include "kernels/ops/activation.h"
#include "kernels/ops/context.h"

namespace onggi {

// The segments of a packed batch: who sees whom.
struct Segments {
  const int32_t* starts;     // i32 [S + 1], ascending, first 0, last T
  const int32_t* first_row;  // i32 [T]: the first row of each row's segment
  const int32_t* end_row;    // i32 [T]: one past the last row of each row's segment
  // host: S. A recording of a pass is right for other segments of the same tokens, one or more than one
  // alike.
  int64_t count;
};

// Query head h uses key/value head h / (Hq / Hkv). A token attends to the tokens of its own segment up to
// itself. Streaming softmax (Milakov and Gimelshein 2018; Dao et al. 2022): no T x T matrix in memory.
struct AttentionArgs {
  ActivationView q;  // [T, Hq, D]
  ActivationView k;  // [T, Hkv, D]
  ActivationView v;  // [T, Hkv, D]
  Segments segments;
  int64_t tokens, query_heads, kv_heads, head_dim;
  float scale;             // 1 / sqrt(D)
  Activation out;          // [T, Hq, D], rows out_stride apart
  int64_t out_stride = 0;  // elements; 0: Hq * D
  // f32 [T, Hq]: log of sum over keys of exp(scale q.k), kept for backward; null: not kept
  float* log_sum_exp;
  Precision precision = Precision::kFast;
};

struct AttentionBackwardArgs {
  ActivationView dout;  // [T, Hq, D], dense
  ActivationView q;     // as in the forward
  ActivationView k;
  ActivationView v;
  ActivationView out;  // rows out_stride apart
  int64_t out_stride = 0;
  const float* log_sum_exp;
  Segments segments;
  int64_t tokens, query_heads, kv_heads, head_dim;
  float scale;
  Activation dq;  // [T, Hq, D], overwritten
  Activation dk;  // [T, Hkv, D], overwritten
  Activation dv;  // [T, Hkv, D], overwritten
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

// The sequences of an inference pass. Row i of sequence s in the pass is row first_row[s] + i of the
// activations and has position past[s] + i.
struct SequenceTable {
  const int32_t* pages;      // i32 [S, page_stride]: page of cache tokens [j P, (j + 1) P) at index j
  int64_t page_stride;       // host
  const int32_t* first_row;  // i32 [S]
  const int32_t* rows;       // i32 [S]: new tokens, at least 1
  const int32_t* past;       // i32 [S]: tokens in the cache before this pass
  const int32_t* sequence;   // i32 [T]: which sequence each row belongs to
  const int32_t* positions;  // i32 [T]
  int64_t count;             // host: S
  int64_t longest_rows;      // host: max over sequences of rows
  // host: no less than max over sequences of past + rows. Passes that a GPU replays from a recording see the
  // true lengths in past and rows alone.
  int64_t longest;
};

// The entries of one sequence, for kernels that run where the table can be read.
struct SequenceRows {
  const int32_t* pages;
  int32_t first_row, rows, past;
};
inline SequenceRows rows_of(const SequenceTable& table, int64_t sequence) {
  return {table.pages + sequence * table.page_stride, table.first_row[sequence], table.rows[sequence],
          table.past[sequence]};
}

// Writes the new keys and values of each sequence into its pages (page tables already hold the needed pages).
struct KvStoreArgs {
  ActivationView k;  // [T, Hkv, D]
  ActivationView v;  // [T, Hkv, D]
  KvLayer cache;
  SequenceTable sequences;
  int64_t tokens, kv_heads, head_dim;
};

// Everything between the products q, k, v and attention: q is normalised and rotated in place (HeadNormRope),
// k likewise on its way into the cache, v goes into the cache.
struct AttentionInputArgs {
  Activation q;             // [T, Hq, D], in and out
  Activation k;             // [T, Hkv, D]; afterwards undefined
  ActivationView v;         // [T, Hkv, D]
  const float* query_norm;  // f32 [D] or null
  const float* key_norm;    // f32 [D] or null
  float epsilon;
  double theta;
  KvLayer cache;
  SequenceTable sequences;
  int64_t tokens, query_heads, kv_heads, head_dim;
};

// out of each row over the cached tokens 0 .. past + i of its sequence, its own included (the cache holds
// them already).
struct CachedAttentionArgs {
  ActivationView q;  // [T, Hq, D]
  KvLayer cache;
  SequenceTable sequences;
  int64_t tokens, query_heads, kv_heads, head_dim;
  float scale;
  Activation out;          // [T, Hq, D], rows out_stride apart
  int64_t out_stride = 0;  // elements; 0: Hq * D
};

// A layer's attention in an inference pass: attention_input, then cached_attention. q and k are undefined
// afterwards. A kernel may read the table, the norms and the cached tokens before `past` while work that was
// queued before it still runs: they must have been there when the last copy to the device was queued, or the
// recording that is replayed.
struct PassAttentionArgs {
  AttentionInputArgs input;
  float scale;             // as in CachedAttentionArgs
  Activation out;          // [T, Hq, D], rows out_stride apart
  int64_t out_stride = 0;  // elements; 0: Hq * D
};

}  // namespace onggi

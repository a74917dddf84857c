#include "kernels/cpu/attention_f32.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/cpu/sgemm.h"
#include "kernels/cpu/softmax_rows.h"

namespace onggi::cpu {
namespace {

// One item is a segment and a key/value head with its group of query heads. Blocks of query rows see all of
// their keys at once: their scores are [kQueryRowsF32, keys].
struct Item {
  int64_t begin, tokens;
  int64_t kv_head;
};

std::vector<Item> items_of(const int32_t* segment_starts, int64_t segments, int64_t kv_heads) {
  std::vector<Item> items;
  for (int64_t s = 0; s < segments; ++s) {
    const int64_t begin = segment_starts[s], tokens = segment_starts[s + 1] - begin;
    for (int64_t head = 0; head < kv_heads && tokens > 0; ++head) items.push_back({begin, tokens, head});
  }
  // The longest first, so that the threads end together.
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.tokens > b.tokens; });
  return items;
}

// Products between rows of heads: everything but the scores has the row stride of q or of k.
template <typename Args>
struct Strides {
  explicit Strides(const Args& args)
      : dim(args.head_dim), q(args.query_heads * dim), kv(args.kv_heads * dim) {}
  int64_t dim, q, kv;
};

void forward_item(const AttentionArgs& args, const Item& item, float* scores) {
  const Strides stride(args);
  const int64_t group = args.query_heads / args.kv_heads;
  const int64_t kv = item.begin * stride.kv + item.kv_head * stride.dim;
  for (int64_t head = item.kv_head * group; head < (item.kv_head + 1) * group; ++head)
    for (int64_t first = 0; first < item.tokens; first += kQueryRowsF32) {
      const int64_t token = item.begin + first, q = token * stride.q + head * stride.dim;
      attend_f32({.q = args.q + q,
                  .out = args.out + q,
                  .q_row = stride.q,
                  .rows = std::min(kQueryRowsF32, item.tokens - first),
                  .position = first,
                  .k = args.k + kv,
                  .v = args.v + kv,
                  .kv_row = stride.kv,
                  .head_dim = stride.dim,
                  .scale = args.scale,
                  .scores = scores,
                  .log_sum_exp = args.log_sum_exp == nullptr
                                     ? nullptr
                                     : args.log_sum_exp + token * args.query_heads + head,
                  .log_sum_exp_row = args.query_heads});
    }
}

// Query rows [first, first + rows) of one head: their dq, and their shares of dk and dv.
void backward_rows(const AttentionBackwardArgs& args, const Item& item, int64_t head, int64_t first,
                   bool accumulate, float* scratch) {
  const Strides stride(args);
  const int64_t rows = std::min(kQueryRowsF32, item.tokens - first), keys = first + rows;
  const int64_t q = (item.begin + first) * stride.q + head * stride.dim;
  const int64_t kv = item.begin * stride.kv + item.kv_head * stride.dim;
  float* scores = scratch;
  float* dp = scratch + kQueryRowsF32 * item.tokens;
  SgemmArgs to_scores{.transpose_b = Transpose::kYes,
                      .m = rows,
                      .n = keys,
                      .k = stride.dim,
                      .alpha = args.scale,
                      .a = args.q + q,
                      .a_row = stride.q,
                      .b = args.k + kv,
                      .b_row = stride.kv,
                      .c = scores,
                      .c_row = keys};
  sgemm(to_scores);
  to_scores.alpha = 1.0f;
  to_scores.a = args.dout + q;
  to_scores.b = args.v + kv;
  to_scores.c = dp;
  sgemm(to_scores);
  for (int64_t r = 0; r < rows; ++r)
    softmax_row_backward(
        {.scores = scores + r * keys,
         .dp = dp + r * keys,
         .visible = first + r + 1,
         .keys = keys,
         .log_sum_exp = args.log_sum_exp[(item.begin + first + r) * args.query_heads + head],
         .delta = dot_row(args.dout + q + r * stride.q, args.out + q + r * stride.q, stride.dim)});
  SgemmArgs to_keys{.transpose_a = Transpose::kYes,
                    .m = keys,
                    .n = stride.dim,
                    .k = rows,
                    .a = scores,
                    .a_row = keys,
                    .b = args.dout + q,
                    .b_row = stride.q,
                    .c = args.dv + kv,
                    .c_row = stride.kv,
                    .accumulate = accumulate};
  sgemm(to_keys);
  to_keys.alpha = args.scale;
  to_keys.a = dp;
  to_keys.b = args.q + q;
  to_keys.c = args.dk + kv;
  sgemm(to_keys);
  sgemm({.m = rows,
         .n = stride.dim,
         .k = keys,
         .alpha = args.scale,
         .a = dp,
         .a_row = keys,
         .b = args.k + kv,
         .b_row = stride.kv,
         .c = args.dq + q,
         .c_row = stride.q});
}

void backward_item(const AttentionBackwardArgs& args, const Item& item, float* scratch) {
  const int64_t group = args.query_heads / args.kv_heads, first_head = item.kv_head * group;
  // The last block of rows sees all keys: it comes first and overwrites dk and dv.
  const int64_t last = (item.tokens - 1) / kQueryRowsF32 * kQueryRowsF32;
  for (int64_t head = first_head; head < first_head + group; ++head)
    for (int64_t first = last; first >= 0; first -= kQueryRowsF32)
      backward_rows(args, item, head, first, head > first_head || first < last, scratch);
}

}  // namespace

void attend_f32(const QueriesF32Args& args) {
  const int64_t keys = args.position + args.rows;
  sgemm({.transpose_b = Transpose::kYes,
         .m = args.rows,
         .n = keys,
         .k = args.head_dim,
         .alpha = args.scale,
         .a = args.q,
         .a_row = args.q_row,
         .b = args.k,
         .b_row = args.kv_row,
         .c = args.scores,
         .c_row = keys});
  for (int64_t r = 0; r < args.rows; ++r) {
    const float log_sum_exp = softmax_row(args.scores + r * keys, args.position + r + 1, keys);
    if (args.log_sum_exp != nullptr) args.log_sum_exp[r * args.log_sum_exp_row] = log_sum_exp;
  }
  sgemm({.m = args.rows,
         .n = args.head_dim,
         .k = keys,
         .a = args.scores,
         .a_row = keys,
         .b = args.v,
         .b_row = args.kv_row,
         .c = args.out,
         .c_row = args.q_row});
}

void attention_f32(const OpContext& context, const AttentionArgs& args) {
  const std::vector<Item> items = items_of(args.segments.starts, args.segments.count, args.kv_heads);
  context.threads.parallel_items(static_cast<int64_t>(items.size()), [&](int64_t i, int thread) {
    const Item& item = items[static_cast<size_t>(i)];
    const auto bytes = static_cast<size_t>(kQueryRowsF32 * item.tokens) * sizeof(float);
    forward_item(args, item, reinterpret_cast<float*>(context.scratch.get(thread, bytes)));
  });
}

void attention_backward_f32(const OpContext& context, const AttentionBackwardArgs& args) {
  const std::vector<Item> items = items_of(args.segments.starts, args.segments.count, args.kv_heads);
  context.threads.parallel_items(static_cast<int64_t>(items.size()), [&](int64_t i, int thread) {
    const Item& item = items[static_cast<size_t>(i)];
    const auto bytes = static_cast<size_t>(2 * kQueryRowsF32 * item.tokens) * sizeof(float);
    backward_item(args, item, reinterpret_cast<float*>(context.scratch.get(thread, bytes)));
  });
}

}  // namespace onggi::cpu

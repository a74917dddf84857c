#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/cpu/attention_bf16.h"
#include "kernels/cpu/attention_panels.h"
#include "kernels/cpu/attention_rows.h"

namespace onggi::cpu {
namespace {

// One item is one segment and one key/value head with its group of query heads: it owns its rows of dq, dk
// and dv, so no sums cross threads. Blocks of key columns and query rows recompute the probabilities from
// log_sum_exp.

constexpr int64_t kBackwardQueries = 8 * kProductRows;
constexpr int64_t kBackwardKeys = 16 * kProductRows;  // also whole panels

struct BackwardItem {
  int64_t begin, tokens;  // the segment
  int64_t kv_head;
};

struct BackwardScratch {
  uint32_t* keys;         // panels with a column per key, for q.k
  uint32_t* values;       // panels with a column per key, for dout.v
  uint32_t* scaled_keys;  // panels with a column per dimension, for dq
  uint16_t* q;            // bf16 [tokens, D], scaled
  uint16_t* dout;         // bf16 [tokens, D]
  uint32_t* q_panels;     // panels with a column per dimension, for dk; scaled
  uint32_t* dout_panels;  // panels with a column per dimension, for dv
  float* delta;           // [tokens]
  float* scores;          // [kBackwardQueries, kBackwardKeys]
  float* dp;              // the same
  uint32_t* p_pairs;      // [kBackwardQueries / 2, kBackwardKeys]
  uint32_t* ds_pairs;     // the same
  uint16_t* ds;           // bf16 [kBackwardQueries, kBackwardKeys]
};

BackwardScratch carve_backward(Carver& carver, int64_t tokens, int64_t dim) {
  constexpr int64_t kBlock = kBackwardQueries * kBackwardKeys;
  BackwardScratch scratch;
  scratch.keys = carver.take<uint32_t>(panel_dwords(dim, tokens));
  scratch.values = carver.take<uint32_t>(panel_dwords(dim, tokens));
  scratch.scaled_keys = carver.take<uint32_t>(panel_dwords(tokens, dim));
  scratch.q = carver.take<uint16_t>(tokens * dim);
  scratch.dout = carver.take<uint16_t>(tokens * dim);
  scratch.q_panels = carver.take<uint32_t>(panel_dwords(tokens, dim));
  scratch.dout_panels = carver.take<uint32_t>(panel_dwords(tokens, dim));
  scratch.delta = carver.take<float>(tokens);
  scratch.scores = carver.take<float>(kBlock);
  scratch.dp = carver.take<float>(kBlock);
  scratch.p_pairs = carver.take<uint32_t>(kBlock / 2);
  scratch.ds_pairs = carver.take<uint32_t>(kBlock / 2);
  scratch.ds = carver.take<uint16_t>(kBlock);
  return scratch;
}

struct Block {
  int64_t first_query, queries;
  int64_t first_key, keys;
};

class BackwardPass {
 public:
  BackwardPass(const AttentionBackwardArgs& args, const BackwardItem& item, std::byte* memory)
      : args_(args), item_(item) {
    Carver carver(memory);
    scratch_ = carve_backward(carver, item.tokens, args.head_dim);
  }
  void run();

 private:
  void pack_keys();
  void pack_queries(int64_t head);
  void block(int64_t head, const Block& block);
  void scores_of(const uint16_t* rows, const uint32_t* panels, const Block& block, float* out);
  void add_to_keys(const uint32_t* pairs, const uint32_t* panels, const Block& block, bool accumulate,
                   float* out);

  int64_t dim() const { return args_.head_dim; }
  int64_t q_row() const { return args_.query_heads * dim(); }
  int64_t kv_row() const { return args_.kv_heads * dim(); }
  int64_t q_offset(int64_t head) const { return item_.begin * q_row() + head * dim(); }
  int64_t kv_offset() const { return item_.begin * kv_row() + item_.kv_head * dim(); }
  // Of panels with a column per dimension.
  int64_t column_panel_stride() const { return kPanelLanes * ((item_.tokens + 1) / 2); }

  const AttentionBackwardArgs& args_;
  const BackwardItem& item_;
  BackwardScratch scratch_;
};

void BackwardPass::pack_keys() {
  PackRowsArgs pack{.x = args_.k + kv_offset(),
                    .x_row = kv_row(),
                    .columns = item_.tokens,
                    .k = dim(),
                    .panel_begin = 0,
                    .panel_end = (item_.tokens + kPanelLanes - 1) / kPanelLanes,
                    .panels = scratch_.keys};
  pack_rows(pack);
  pack.x = args_.v + kv_offset();
  pack.panels = scratch_.values;
  pack_rows(pack);
  interleave_columns({.x = args_.k + kv_offset(),
                      .x_row = kv_row(),
                      .rows = item_.tokens,
                      .width = dim(),
                      .scale = args_.scale,
                      .panel_stride = column_panel_stride(),
                      .out = scratch_.scaled_keys});
}

void BackwardPass::pack_queries(int64_t head) {
  const float* q = args_.q + q_offset(head);
  const float* dout = args_.dout + q_offset(head);
  ScaleRowsArgs rows{.x = q,
                     .x_row = q_row(),
                     .rows = item_.tokens,
                     .width = dim(),
                     .scale = args_.scale,
                     .out = scratch_.q};
  scale_rows(rows);
  rows.x = dout;
  rows.scale = 1.0f;
  rows.out = scratch_.dout;
  scale_rows(rows);
  InterleaveArgs columns{.x = q,
                         .x_row = q_row(),
                         .rows = item_.tokens,
                         .width = dim(),
                         .scale = args_.scale,
                         .panel_stride = column_panel_stride(),
                         .out = scratch_.q_panels};
  interleave_columns(columns);
  columns.x = dout;
  columns.scale = 1.0f;
  columns.out = scratch_.dout_panels;
  interleave_columns(columns);
  row_dots(dout, args_.out + q_offset(head), q_row(), item_.tokens, dim(), scratch_.delta);
}

// out [queries, keys] = rows of the block's queries times the panels of its keys.
void BackwardPass::scores_of(const uint16_t* rows, const uint32_t* panels, const Block& block, float* out) {
  product_panels({.product = {.a = rows + block.first_query * dim(),
                              .a_row = dim() / 2,
                              .a_pair = 1,
                              .panel = panels + block.first_key * (dim() / 2),
                              .pairs = dim() / 2,
                              .c = out,
                              .c_row = kBackwardKeys,
                              .rows = block.queries,
                              .columns = 0},
                  .columns = block.keys,
                  .panel_stride = kPanelLanes * (dim() / 2)});
}

// out [keys, D] (+)= sum over the block's queries of pairs[query, key] * panels[query, :]
void BackwardPass::add_to_keys(const uint32_t* pairs, const uint32_t* panels, const Block& block,
                               bool accumulate, float* out) {
  product_panels({.product = {.a = pairs,
                              .a_row = 1,
                              .a_pair = kBackwardKeys,
                              .panel = panels + block.first_query / 2 * kPanelLanes,
                              .pairs = (block.queries + 1) / 2,
                              .c = out + kv_offset() + block.first_key * kv_row(),
                              .c_row = kv_row(),
                              .rows = block.keys,
                              .columns = 0,
                              .accumulate = accumulate},
                  .columns = dim(),
                  .panel_stride = column_panel_stride()});
}

void BackwardPass::block(int64_t head, const Block& block) {
  scores_of(scratch_.q, scratch_.keys, block, scratch_.scores);
  scores_of(scratch_.dout, scratch_.values, block, scratch_.dp);
  softmax_backward(
      {.scores = scratch_.scores,
       .dp = scratch_.dp,
       .keys_row = kBackwardKeys,
       .rows = block.queries,
       .keys = block.keys,
       .first_visible = block.first_query - block.first_key,
       .log_sum_exp = args_.log_sum_exp + (item_.begin + block.first_query) * args_.query_heads + head,
       .lse_row = args_.query_heads,
       .delta = scratch_.delta + block.first_query,
       .p_pairs = scratch_.p_pairs,
       .ds_pairs = scratch_.ds_pairs,
       .ds = scratch_.ds});
  add_to_keys(scratch_.p_pairs, scratch_.dout_panels, block, true, args_.dv);
  add_to_keys(scratch_.ds_pairs, scratch_.q_panels, block, true, args_.dk);
  product_panels({.product = {.a = scratch_.ds,
                              .a_row = kBackwardKeys / 2,
                              .a_pair = 1,
                              .panel = scratch_.scaled_keys + block.first_key / 2 * kPanelLanes,
                              .pairs = (block.keys + 1) / 2,
                              .c = args_.dq + q_offset(head) + block.first_query * q_row(),
                              .c_row = q_row(),
                              .rows = block.queries,
                              .columns = 0,
                              .accumulate = block.first_key > 0},
                  .columns = dim(),
                  .panel_stride = column_panel_stride()});
}

void BackwardPass::run() {
  const int64_t group = args_.query_heads / args_.kv_heads;
  // The blocks of one key may start with different queries, so dk and dv start from zero.
  for (int64_t t = 0; t < item_.tokens; ++t) {
    std::fill_n(args_.dk + kv_offset() + t * kv_row(), dim(), 0.0f);
    std::fill_n(args_.dv + kv_offset() + t * kv_row(), dim(), 0.0f);
  }
  pack_keys();
  for (int64_t head = item_.kv_head * group; head < (item_.kv_head + 1) * group; ++head) {
    pack_queries(head);
    for (int64_t key = 0; key < item_.tokens; key += kBackwardKeys)
      for (int64_t query = key / kBackwardQueries * kBackwardQueries; query < item_.tokens;
           query += kBackwardQueries) {
        const int64_t queries = std::min(kBackwardQueries, item_.tokens - query);
        block(head, {.first_query = query,
                     .queries = queries,
                     .first_key = key,
                     .keys = std::min(kBackwardKeys, query + queries - key)});
      }
  }
}

}  // namespace

void attention_backward_bf16(const OpContext& context, const AttentionBackwardArgs& args) {
  std::vector<BackwardItem> items;
  for (int64_t s = 0; s < args.segments.count; ++s) {
    const int64_t begin = args.segments.starts[s], tokens = args.segments.starts[s + 1] - begin;
    for (int64_t head = 0; head < args.kv_heads && tokens > 0; ++head)
      items.push_back({.begin = begin, .tokens = tokens, .kv_head = head});
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const BackwardItem& a, const BackwardItem& b) { return a.tokens > b.tokens; });
  context.threads.parallel_items(static_cast<int64_t>(items.size()), [&](int64_t i, int thread) {
    const BackwardItem& item = items[static_cast<size_t>(i)];
    Carver count;
    carve_backward(count, item.tokens, args.head_dim);
    BackwardPass(args, item, context.scratch.get(thread, count.size())).run();
  });
}

}  // namespace onggi::cpu

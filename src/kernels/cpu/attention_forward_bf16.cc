#include <algorithm>
#include <vector>

#include "kernels/cpu/attention_bf16.h"
#include "kernels/cpu/attention_panels.h"
#include "kernels/cpu/attention_queries.h"

namespace onggi::cpu {
namespace {

// One item is up to kQueriesPerItem query tokens of one segment and one key/value head. It packs the keys and
// values that they see once for all heads of the group.

constexpr int64_t kQueriesPerItem = 256;

struct ForwardItem {
  int64_t segment_begin;  // first token of the segment
  int64_t first, last;    // query tokens [first, last), counted within the segment
  int64_t kv_head;
};

void forward_item(const AttentionArgs& args, const ForwardItem& item, Scratch& memory, int thread) {
  const int64_t dim = args.head_dim, group = args.query_heads / args.kv_heads;
  Carver count;
  carve_keys(count, item.last, dim);
  carve_queries(count, dim);
  Carver carver(memory.get(thread, count.size()));
  const PackedKeys packed = carve_keys(carver, item.last, dim);
  const QueryScratch scratch = carve_queries(carver, dim);
  const int64_t kv_row = args.kv_heads * dim, kv = item.segment_begin * kv_row + item.kv_head * dim;
  pack_keys(
      {.k = args.k + kv, .v = args.v + kv, .row = kv_row, .first = 0, .rows = item.last, .head_dim = dim},
      packed);
  const int64_t token = item.segment_begin + item.first;
  for (int64_t head = item.kv_head * group; head < (item.kv_head + 1) * group; ++head)
    attend({.q = args.q + (token * args.query_heads + head) * dim,
            .out = args.out + (token * args.query_heads + head) * dim,
            .q_row = args.query_heads * dim,
            .rows = item.last - item.first,
            .position = item.first,
            .head_dim = dim,
            .scale = args.scale,
            .log_sum_exp =
                args.log_sum_exp == nullptr ? nullptr : args.log_sum_exp + token * args.query_heads + head,
            .log_sum_exp_row = args.query_heads},
           packed, scratch);
}

}  // namespace

void attention_bf16(const OpContext& context, const AttentionArgs& args) {
  std::vector<ForwardItem> items;
  for (int64_t s = 0; s < args.segments.count; ++s) {
    const int64_t begin = args.segments.starts[s], tokens = args.segments.starts[s + 1] - begin;
    for (int64_t first = 0; first < tokens; first += kQueriesPerItem)
      for (int64_t head = 0; head < args.kv_heads; ++head)
        items.push_back({.segment_begin = begin,
                         .first = first,
                         .last = std::min(tokens, first + kQueriesPerItem),
                         .kv_head = head});
  }
  // The longest first, so that the threads end together.
  std::stable_sort(items.begin(), items.end(),
                   [](const ForwardItem& a, const ForwardItem& b) { return a.last > b.last; });
  context.threads.parallel_items(static_cast<int64_t>(items.size()), [&](int64_t i, int thread) {
    forward_item(args, items[static_cast<size_t>(i)], context.scratch, thread);
  });
}

}  // namespace onggi::cpu

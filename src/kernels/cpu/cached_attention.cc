#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "kernels/cpu/attention_decode.h"
#include "kernels/cpu/attention_f32.h"
#include "kernels/cpu/attention_queries.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/features.h"

namespace onggi::cpu {
namespace {

// Sequences with few rows (decoding) read the cache once, in ranges of tokens that threads share; the parts
// of a sequence are merged afterwards. Sequences with many rows (prompts) first turn keys and values into
// what the matrix products want: bf16 panels, or plain f32 where the cache itself is f32 or bf16 products are
// missing. The ranges are fixed, so the results do not depend on the threads.
constexpr int64_t kFewQueries = 8;     // rows times heads of a group
constexpr int64_t kRangeTokens = 256;  // of the cache, per item
constexpr int64_t kChunkRows = 256;    // of a prompt, per item

struct Item {
  int64_t sequence;
  int64_t kv_head;
  int64_t first, count;  // tokens of the cache (few rows) or rows of the sequence (many)
  int64_t part;          // index of the first partial result, -1: writes `out` itself
};

// Partial results of the decode items: per query [D] values, a maximum and a sum.
struct Parts {
  float* values;
  float* maximum;
  float* sum;
};

struct Plan {
  std::vector<Item> few, many;
  int64_t partial_queries = 0;
};

class CachedAttention {
 public:
  CachedAttention(const OpContext& context, const CachedAttentionArgs& args)
      : context_(context), args_(args), group_(args.query_heads / args.kv_heads) {}
  void run();

 private:
  void plan();
  void few(const Item& item, int thread);
  void many(const Item& item, int thread);
  void many_bf16(const Item& item, int thread);
  void many_f32(const Item& item, int thread);
  void merge(const Item& first_item);

  bool has_few_rows(const SequenceRows& sequence) const { return sequence.rows * group_ <= kFewQueries; }
  int64_t ranges_of(const SequenceRows& sequence) const {
    return (sequence.past + sequence.rows + kRangeTokens - 1) / kRangeTokens;
  }
  CachedHead head_of(const Item& item) const {
    return {args_.cache, rows_of(args_.sequences, item.sequence).pages, args_.kv_heads, args_.head_dim,
            item.kv_head};
  }
  int64_t q_row() const { return args_.query_heads * args_.head_dim; }
  // Of row `row` of the item's sequence and the first head of its group.
  int64_t q_offset(const Item& item, int64_t row) const {
    return (rows_of(args_.sequences, item.sequence).first_row + row) * q_row() +
           item.kv_head * group_ * args_.head_dim;
  }

  const OpContext& context_;
  const CachedAttentionArgs& args_;
  int64_t group_;
  Plan plan_;
  Parts parts_{};
};

void CachedAttention::plan() {
  for (int64_t s = 0; s < args_.sequences.count; ++s) {
    const SequenceRows sequence = rows_of(args_.sequences, s);
    if (sequence.rows == 0) continue;
    const int64_t tokens = int64_t{sequence.past} + sequence.rows;
    for (int64_t head = 0; head < args_.kv_heads; ++head) {
      if (!has_few_rows(sequence)) {
        for (int64_t row = 0; row < sequence.rows; row += kChunkRows)
          plan_.many.push_back({s, head, row, std::min<int64_t>(kChunkRows, sequence.rows - row), -1});
        continue;
      }
      for (int64_t first = 0; first < tokens; first += kRangeTokens) {
        const bool whole = tokens <= kRangeTokens;
        plan_.few.push_back(
            {s, head, first, std::min(kRangeTokens, tokens - first), whole ? -1 : plan_.partial_queries});
        if (!whole) plan_.partial_queries += sequence.rows * group_;
      }
    }
  }
}

void CachedAttention::few(const Item& item, int thread) {
  const SequenceRows sequence = rows_of(args_.sequences, item.sequence);
  const int64_t queries = sequence.rows * group_, dim = args_.head_dim;
  const int64_t own = decode_scratch_floats(queries, item.count, dim);
  auto* scratch = reinterpret_cast<float*>(
      context_.scratch.get(thread, static_cast<size_t>(own + 2 * queries) * sizeof(float)));
  const bool whole = item.part < 0;
  decode_attention({.head = head_of(item),
                    .q = args_.q + q_offset(item, 0),
                    .q_row = q_row(),
                    .rows = sequence.rows,
                    .group = group_,
                    .position = sequence.past,
                    .first = item.first,
                    .count = item.count,
                    .scale = args_.scale,
                    .scratch = scratch,
                    .out = whole ? args_.out + q_offset(item, 0) : parts_.values + item.part * dim,
                    .out_row = whole ? q_row() : group_ * dim,
                    .out_head = dim,
                    .maximum = whole ? scratch + own : parts_.maximum + item.part,
                    .sum = whole ? scratch + own + queries : parts_.sum + item.part});
}

// The ranges of one sequence and head lie one after another from first_item on.
void CachedAttention::merge(const Item& first_item) {
  const SequenceRows sequence = rows_of(args_.sequences, first_item.sequence);
  const int64_t queries = sequence.rows * group_, dim = args_.head_dim, ranges = ranges_of(sequence);
  for (int64_t query = 0; query < queries; ++query) {
    float* out = args_.out + q_offset(first_item, query / group_) + query % group_ * dim;
    std::fill_n(out, dim, 0.0f);
    float maximum = parts_.maximum[first_item.part + query];
    for (int64_t range = 1; range < ranges; ++range)
      maximum = std::max(maximum, parts_.maximum[first_item.part + range * queries + query]);
    float sum = 0;
    const auto share_of = [&](int64_t part) {
      return parts_.sum[part] * std::exp(parts_.maximum[part] - maximum);
    };
    for (int64_t range = 0; range < ranges; ++range)
      sum += share_of(first_item.part + range * queries + query);
    for (int64_t range = 0; range < ranges; ++range) {
      const int64_t part = first_item.part + range * queries + query;
      const float share = share_of(part) / sum;
      for (int64_t d = 0; d < dim; ++d) out[d] += share * parts_.values[part * dim + d];
    }
  }
}

void CachedAttention::many(const Item& item, int thread) {
  if (args_.cache.dtype != DType::kF32 && has_avx512_bf16() && args_.head_dim % 2 == 0)
    return many_bf16(item, thread);
  many_f32(item, thread);
}

void CachedAttention::many_bf16(const Item& item, int thread) {
  const int64_t dim = args_.head_dim, position = rows_of(args_.sequences, item.sequence).past + item.first;
  const int64_t keys = position + item.count;
  const auto carve = [&](Carver& carver, float** k, float** v, QueryScratch* queries) {
    const PackedKeys packed = carve_keys(carver, keys, dim);
    *queries = carve_queries(carver, dim);
    *k = carver.take<float>(kPanelLanes * dim);
    *v = carver.take<float>(kPanelLanes * dim);
    return packed;
  };
  float *k = nullptr, *v = nullptr;
  QueryScratch queries;
  Carver size;
  carve(size, &k, &v, &queries);
  Carver carver(context_.scratch.get(thread, size.size()));
  const PackedKeys packed = carve(carver, &k, &v, &queries);
  for (int64_t first = 0; first < keys; first += kPanelLanes) {
    const int64_t rows = std::min<int64_t>(kPanelLanes, keys - first);
    load_cached(head_of(item), CacheSide::kKeys, first, rows, k);
    load_cached(head_of(item), CacheSide::kValues, first, rows, v);
    pack_keys({.k = k, .v = v, .row = dim, .first = first, .rows = rows, .head_dim = dim}, packed);
  }
  for (int64_t head = 0; head < group_; ++head)
    attend({.q = args_.q + q_offset(item, item.first) + head * dim,
            .out = args_.out + q_offset(item, item.first) + head * dim,
            .q_row = q_row(),
            .rows = item.count,
            .position = position,
            .head_dim = dim,
            .scale = args_.scale,
            .log_sum_exp = nullptr,
            .log_sum_exp_row = 0},
           packed, queries);
}

void CachedAttention::many_f32(const Item& item, int thread) {
  const int64_t dim = args_.head_dim, position = rows_of(args_.sequences, item.sequence).past + item.first;
  const int64_t keys = position + item.count;
  auto* k = reinterpret_cast<float*>(
      context_.scratch.get(thread, static_cast<size_t>((2 * dim + kQueryRowsF32) * keys) * sizeof(float)));
  float* v = k + keys * dim;
  load_cached(head_of(item), CacheSide::kKeys, 0, keys, k);
  load_cached(head_of(item), CacheSide::kValues, 0, keys, v);
  for (int64_t head = 0; head < group_; ++head)
    for (int64_t row = 0; row < item.count; row += kQueryRowsF32) {
      const int64_t q = q_offset(item, item.first + row) + head * dim;
      attend_f32({.q = args_.q + q,
                  .out = args_.out + q,
                  .q_row = q_row(),
                  .rows = std::min(kQueryRowsF32, item.count - row),
                  .position = position + row,
                  .k = k,
                  .v = v,
                  .kv_row = dim,
                  .head_dim = dim,
                  .scale = args_.scale,
                  .scores = v + keys * dim,
                  .log_sum_exp = nullptr,
                  .log_sum_exp_row = 0});
    }
}

void CachedAttention::run() {
  plan();
  const int64_t dim = args_.head_dim, partial = plan_.partial_queries;
  if (partial > 0) {
    parts_.values = reinterpret_cast<float*>(context_.scratch.get(
        context_.threads.size(), static_cast<size_t>(partial * (dim + 2)) * sizeof(float)));
    parts_.maximum = parts_.values + partial * dim;
    parts_.sum = parts_.maximum + partial;
  }
  const auto many_count = static_cast<int64_t>(plan_.many.size());
  const auto few_count = static_cast<int64_t>(plan_.few.size());
  context_.threads.parallel_items(many_count + few_count, [&](int64_t i, int thread) {
    if (i < many_count) return many(plan_.many[static_cast<size_t>(i)], thread);
    few(plan_.few[static_cast<size_t>(i - many_count)], thread);
  });
  for (const Item& item : plan_.few)
    if (item.part >= 0 && item.first == 0) merge(item);
}

}  // namespace

void kv_store(const OpContext& context, const KvStoreArgs& args) {
  for (int64_t s = 0; s < args.sequences.count; ++s) {
    const SequenceRows sequence = rows_of(args.sequences, s);
    const int64_t grain = std::max<int64_t>(1, 16384 / (args.kv_heads * args.head_dim));
    context.threads.parallel_for(sequence.rows, grain, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row)
        for (int64_t head = 0; head < args.kv_heads; ++head) {
          const CachedHead target{args.cache, sequence.pages, args.kv_heads, args.head_dim, head};
          const int64_t from = ((sequence.first_row + row) * args.kv_heads + head) * args.head_dim;
          store_cached(target, CacheSide::kKeys, sequence.past + row, args.k + from);
          store_cached(target, CacheSide::kValues, sequence.past + row, args.v + from);
        }
    });
  }
}

void cached_attention(const OpContext& context, const CachedAttentionArgs& args) {
  check_dense(args.out_stride, args.query_heads * args.head_dim);
  CachedAttention(context, args).run();
}

}  // namespace onggi::cpu

#include "kernels/cpu/attention_queries.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/attention_rows.h"
#include "kernels/cpu/bf16_product.h"

namespace onggi::cpu {
namespace {

// 48 rows of 512 scores are 96 KiB, beside which the panels of the keys stream through L2.
constexpr int64_t kQueryRows = 4 * kProductRows;
constexpr int64_t kKeyColumns = 512;

void attend_rows(const QueriesArgs& args, const PackedKeys& packed, const QueryScratch& scratch) {
  const int64_t dim = args.head_dim, end = std::min(packed.count, args.position + args.rows);
  scale_rows({.x = args.q,
              .x_row = args.q_row,
              .rows = args.rows,
              .width = dim,
              .scale = args.scale,
              .out = scratch.q});
  for (int64_t key = 0; key < end; key += kKeyColumns) {
    const int64_t count = std::min(kKeyColumns, end - key);
    product_panels({.product = {.a = scratch.q,
                                .a_row = dim / 2,
                                .a_pair = 1,
                                .panel = packed.keys + key * (dim / 2),
                                .pairs = dim / 2,
                                .c = scratch.scores,
                                .c_row = kKeyColumns,
                                .rows = args.rows,
                                .columns = 0},
                    .columns = count,
                    .panel_stride = kPanelLanes * (dim / 2)});
    softmax_step({.scores = scratch.scores,
                  .scores_row = kKeyColumns,
                  .rows = args.rows,
                  .keys = count,
                  .first_visible = args.position - key,
                  .p = scratch.p,
                  .p_row = kKeyColumns,
                  .maximum = scratch.maximum,
                  .sum = scratch.sum,
                  .out = args.out,
                  .out_row = args.q_row,
                  .head_dim = dim,
                  .first = key == 0});
    product_panels({.product = {.a = scratch.p,
                                .a_row = kKeyColumns / 2,
                                .a_pair = 1,
                                .panel = packed.values + key / 2 * kPanelLanes,
                                .pairs = (count + 1) / 2,
                                .c = args.out,
                                .c_row = args.q_row,
                                .rows = args.rows,
                                .columns = 0,
                                .accumulate = key > 0},
                    .columns = dim,
                    .panel_stride = kPanelLanes * ((packed.count + 1) / 2)});
  }
  normalize_rows(args.out, args.q_row, args.rows, dim, scratch.sum);
  if (args.log_sum_exp == nullptr) return;
  for (int64_t r = 0; r < args.rows; ++r)
    args.log_sum_exp[r * args.log_sum_exp_row] = scratch.maximum[r] + std::log(scratch.sum[r]);
}

}  // namespace

PackedKeys carve_keys(Carver& carver, int64_t count, int64_t head_dim) {
  PackedKeys packed;
  packed.keys = carver.take<uint32_t>(panel_dwords(head_dim, count));
  packed.values = carver.take<uint32_t>(panel_dwords(count, head_dim));
  packed.count = count;
  return packed;
}

void pack_keys(const PackKeysArgs& args, const PackedKeys& packed) {
  pack_rows({.x = args.k,
             .x_row = args.row,
             .columns = args.rows,
             .k = args.head_dim,
             .panel_begin = 0,
             .panel_end = (args.rows + kPanelLanes - 1) / kPanelLanes,
             .panels = packed.keys + args.first * (args.head_dim / 2)});
  interleave_columns({.x = args.v,
                      .x_row = args.row,
                      .rows = args.rows,
                      .width = args.head_dim,
                      .scale = 1.0f,
                      .panel_stride = kPanelLanes * ((packed.count + 1) / 2),
                      .out = packed.values + args.first / 2 * kPanelLanes});
}

QueryScratch carve_queries(Carver& carver, int64_t head_dim) {
  QueryScratch scratch;
  scratch.q = carver.take<uint16_t>(kQueryRows * head_dim);
  scratch.scores = carver.take<float>(kQueryRows * kKeyColumns);
  scratch.p = carver.take<uint16_t>(kQueryRows * kKeyColumns);
  scratch.maximum = carver.take<float>(kQueryRows);
  scratch.sum = carver.take<float>(kQueryRows);
  return scratch;
}

void attend(const QueriesArgs& args, const PackedKeys& packed, const QueryScratch& scratch) {
  for (int64_t first = 0; first < args.rows; first += kQueryRows) {
    QueriesArgs part = args;
    part.q += first * args.q_row;
    part.out += first * args.q_row;
    part.rows = std::min(kQueryRows, args.rows - first);
    part.position += first;
    if (part.log_sum_exp != nullptr) part.log_sum_exp += first * args.log_sum_exp_row;
    attend_rows(part, packed, scratch);
  }
}

}  // namespace onggi::cpu

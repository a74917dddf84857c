#include "kernels/cpu/linear_bf16.h"

#include <algorithm>
#include <cstddef>

#include "kernels/cpu/bf16_decode.h"
#include "kernels/cpu/bf16_product.h"

namespace onggi::cpu {
namespace {

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Forward. The tokens are the lanes and the weight rows are broadcast: then a row is used as it is decoded,
// and the tile of results, [features, tokens], is turned when it is written out.
//
// Tile sizes: 12 rows of 1024 bf16 stay in the 48 KiB L1 while the panels of a token block stream from L2;
// 48 rows are few enough to give each of several threads work at N = 1024.
constexpr int64_t kForwardRows = 4 * kProductRows;
constexpr int64_t kForwardDepth = 1024;   // K handled per pass; a multiple of every block size
constexpr int64_t kTokenBlock = 256;      // tokens whose panels (512 KiB at full depth) stay in L2
constexpr int64_t kForwardTokens = 2048;  // tokens per decoding of the weight: bounds the result tile

struct Forward {
  const LinearArgs& args;
  const uint32_t* panels;  // all tokens of this chunk, see panel_dwords(K, tokens)
  int64_t first_token;
  int64_t tokens;

  int64_t depth() const { return args.weight.columns; }
  int64_t row_words() const { return round_up(std::min(kForwardDepth, depth()), 2); }
  int64_t weight_bytes() const { return kForwardRows * row_words() * 2; }
  int64_t result_row() const { return round_up(tokens, kPanelLanes); }
  size_t scratch_bytes() const {
    return static_cast<size_t>(weight_bytes() + kForwardRows * result_row() * 4);
  }
  void tile(int64_t first_row, std::byte* scratch) const;
  void multiply(const void* rows, int64_t row_dwords, int64_t row_count, int64_t k, int64_t count,
                float* result) const;
};

// result[row, t] (+)= rows[row, :] . x[t, k .. k + count)
void Forward::multiply(const void* rows, int64_t row_dwords, int64_t row_count, int64_t k, int64_t count,
                       float* result) const {
  for (int64_t block = 0; block < tokens; block += kTokenBlock) {
    const int64_t block_end = std::min(tokens, block + kTokenBlock);
    for (int64_t row = 0; row < row_count; row += kProductRows)
      for (int64_t t = block; t < block_end; t += kPanelLanes)
        product_panel({.a = static_cast<const uint32_t*>(rows) + row * row_dwords,
                       .a_row = row_dwords,
                       .a_pair = 1,
                       .panel = panels + t * ((depth() + 1) / 2) + k / 2 * kPanelLanes,
                       .pairs = (count + 1) / 2,
                       .c = result + row * result_row() + t,
                       .c_row = result_row(),
                       .rows = std::min<int64_t>(kProductRows, row_count - row),
                       .columns = std::min<int64_t>(kPanelLanes, tokens - t),
                       .accumulate = k > 0});
  }
}

void Forward::tile(int64_t first_row, std::byte* scratch) const {
  auto* rows = reinterpret_cast<uint16_t*>(scratch);
  auto* result = reinterpret_cast<float*>(scratch + weight_bytes());
  const int64_t row_count = std::min(kForwardRows, args.weight.rows - first_row);
  // bf16 weights whose rows are whole pairs are multiplied where they lie.
  const bool in_place = args.weight.dtype == DType::kBF16 && depth() % 2 == 0;
  for (int64_t k = 0; k < depth(); k += kForwardDepth) {
    const int64_t count = std::min(kForwardDepth, depth() - k);
    if (in_place) {
      const auto* data = static_cast<const uint16_t*>(args.weight.data) + first_row * depth() + k;
      multiply(data, depth() / 2, row_count, k, count, result);
      continue;
    }
    for (int64_t row = 0; row < row_count; ++row) {
      uint16_t* out = rows + row * row_words();
      decode_bf16(args.weight, first_row + row, k, count, out);
      if (count % 2 != 0) out[count] = 0;
    }
    multiply(rows, row_words() / 2, row_count, k, count, result);
  }
  transpose_to({.c = result,
                .c_row = result_row(),
                .rows = row_count,
                .columns = tokens,
                .out = args.out + first_token * args.weight.rows + first_row,
                .out_row = args.weight.rows,
                .accumulate = args.output == Output::kAccumulate});
}

// Backward. dx[t, k] = sum_n dout[t, n] W[n, k]: the columns of W are the lanes, so two decoded rows are
// interleaved into a panel row, and dout is broadcast. Threads share W by columns, so that none waits for
// another's sums.
constexpr int64_t kBackwardDepth = 512;  // rows of W per pass: a panel of 32 columns is 32 KiB
constexpr int64_t kBackwardColumns = 256;

struct Backward {
  const LinearBackwardArgs& args;
  const uint16_t* dout;  // bf16 [T, row_words()]
  int64_t columns_per_tile;

  int64_t row_words() const { return round_up(args.weight.rows, 2); }
  int64_t panel_bytes() const { return columns_per_tile * kBackwardDepth * 2; }
  size_t scratch_bytes() const { return static_cast<size_t>(panel_bytes() + 2 * columns_per_tile * 2); }
  void tile(int64_t first_column, int64_t first_token, int64_t tokens, std::byte* scratch) const;
};

void Backward::tile(int64_t first_column, int64_t first_token, int64_t tokens, std::byte* scratch) const {
  auto* panels = reinterpret_cast<uint32_t*>(scratch);
  auto* first = reinterpret_cast<uint16_t*>(scratch + panel_bytes());
  uint16_t* second = first + columns_per_tile;
  const int64_t width = args.weight.columns, depth = args.weight.rows;
  const int64_t columns = std::min(columns_per_tile, width - first_column);
  constexpr int64_t kPanelStride = kPanelLanes * kBackwardDepth / 2;
  for (int64_t n = 0; n < depth; n += kBackwardDepth) {
    const int64_t count = std::min(kBackwardDepth, depth - n);
    for (int64_t i = 0; i < count; i += 2) {
      decode_bf16(args.weight, n + i, first_column, columns, first);
      if (i + 1 < count) decode_bf16(args.weight, n + i + 1, first_column, columns, second);
      interleave_rows(first, i + 1 < count ? second : nullptr, columns, kPanelStride,
                      panels + i / 2 * kPanelLanes);
    }
    for (int64_t c = 0; c < columns; c += kPanelLanes)
      product_panel({.a = dout + first_token * row_words() + n,
                     .a_row = row_words() / 2,
                     .a_pair = 1,
                     .panel = panels + c / kPanelLanes * kPanelStride,
                     .pairs = (count + 1) / 2,
                     .c = args.dx + first_token * width + first_column + c,
                     .c_row = width,
                     .rows = tokens,
                     .columns = std::min<int64_t>(kPanelLanes, columns - c),
                     .accumulate = n > 0 || args.output == Output::kAccumulate});
  }
}

}  // namespace

void linear_bf16(const OpContext& context, const LinearArgs& args) {
  const int64_t depth = args.weight.columns;
  for (int64_t first = 0; first < args.tokens; first += kForwardTokens) {
    const int64_t tokens = std::min(kForwardTokens, args.tokens - first);
    auto* panels = reinterpret_cast<uint32_t*>(context.scratch.get(
        context.threads.size(), static_cast<size_t>(panel_dwords(depth, tokens)) * sizeof(uint32_t)));
    const int64_t panel_count = (tokens + kPanelLanes - 1) / kPanelLanes;
    context.threads.parallel_for(panel_count, 1, [&](int64_t begin, int64_t end, int) {
      pack_rows({.x = args.x + first * depth,
                 .x_row = depth,
                 .columns = tokens,
                 .k = depth,
                 .panel_begin = begin,
                 .panel_end = end,
                 .panels = panels});
    });
    const Forward forward{args, panels, first, tokens};
    context.threads.parallel_items(
        (args.weight.rows + kForwardRows - 1) / kForwardRows, [&](int64_t item, int thread) {
          forward.tile(item * kForwardRows, context.scratch.get(thread, forward.scratch_bytes()));
        });
  }
}

void linear_backward_bf16(const OpContext& context, const LinearBackwardArgs& args) {
  const int64_t depth = args.weight.rows, width = args.weight.columns;
  const int64_t row_words = round_up(depth, 2);
  auto* dout = reinterpret_cast<uint16_t*>(
      context.scratch.get(context.threads.size(), static_cast<size_t>(args.tokens * row_words) * 2));
  context.threads.parallel_for(args.tokens, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      round_to_bf16(args.dout + t * depth, depth, dout + t * row_words);
      if (depth % 2 != 0) dout[t * row_words + depth] = 0;
    }
  });
  const Backward backward{args, dout, std::min(kBackwardColumns, round_up(width, kPanelLanes))};
  const int64_t column_tiles = (width + backward.columns_per_tile - 1) / backward.columns_per_tile;
  // With more threads than column tiles the tokens are shared as well, at the price of decoding twice.
  const int64_t shares = std::clamp<int64_t>(context.threads.size() / column_tiles, 1,
                                             (args.tokens + kPanelLanes - 1) / kPanelLanes);
  const int64_t share = (args.tokens + shares - 1) / shares;
  context.threads.parallel_items(column_tiles * shares, [&](int64_t item, int thread) {
    const int64_t first_token = item % shares * share;
    const int64_t tokens = std::min(share, args.tokens - first_token);
    if (tokens <= 0) return;
    backward.tile(item / shares * backward.columns_per_tile, first_token, tokens,
                  context.scratch.get(thread, backward.scratch_bytes()));
  });
}

}  // namespace onggi::cpu

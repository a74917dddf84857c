#include "kernels/cpu/linear_f32.h"

#include <algorithm>
#include <cstddef>

#include "kernels/cpu/sgemm.h"
#include "kernels/ops/weight.h"

namespace onggi::cpu {
namespace {

constexpr int64_t kTileRows = 96;      // weight rows per tile of the forward
constexpr int64_t kTileColumns = 256;  // weight columns per tile of the backward: every block size divides it
constexpr int64_t kBackwardRows = 256;  // weight rows decoded at a time in the backward

}  // namespace

void linear_f32(const OpContext& context, const LinearArgs& args) {
  const int64_t depth = args.weight.columns, features = args.weight.rows;
  context.threads.parallel_items((features + kTileRows - 1) / kTileRows, [&](int64_t item, int thread) {
    const int64_t first = item * kTileRows, rows = std::min(kTileRows, features - first);
    const float* tile = static_cast<const float*>(args.weight.data) + first * depth;
    if (args.weight.dtype != DType::kF32) {
      auto* decoded = reinterpret_cast<float*>(
          context.scratch.get(thread, static_cast<size_t>(kTileRows * depth) * sizeof(float)));
      for (int64_t row = 0; row < rows; ++row)
        decode_weight(args.weight, first + row, 0, depth, decoded + row * depth);
      tile = decoded;
    }
    sgemm({.transpose_b = Transpose::kYes,
           .m = args.tokens,
           .n = rows,
           .k = depth,
           .a = args.x,
           .a_row = depth,
           .b = tile,
           .b_row = depth,
           .c = args.out + first,
           .c_row = features,
           .accumulate = args.output == Output::kAccumulate});
  });
}

void linear_backward_f32(const OpContext& context, const LinearBackwardArgs& args) {
  const int64_t width = args.weight.columns, depth = args.weight.rows;
  context.threads.parallel_items((width + kTileColumns - 1) / kTileColumns, [&](int64_t item, int thread) {
    const int64_t first = item * kTileColumns, columns = std::min(kTileColumns, width - first);
    SgemmArgs product{.m = args.tokens,
                      .n = columns,
                      .k = 0,
                      .a = nullptr,
                      .a_row = depth,
                      .b = nullptr,
                      .b_row = columns,
                      .c = args.dx + first,
                      .c_row = width};
    if (args.weight.dtype == DType::kF32) {
      product.k = depth;
      product.a = args.dout;
      product.b = static_cast<const float*>(args.weight.data) + first;
      product.b_row = width;
      product.accumulate = args.output == Output::kAccumulate;
      return sgemm(product);
    }
    auto* tile = reinterpret_cast<float*>(
        context.scratch.get(thread, static_cast<size_t>(kBackwardRows * columns) * sizeof(float)));
    for (int64_t n = 0; n < depth; n += kBackwardRows) {
      product.k = std::min(kBackwardRows, depth - n);
      for (int64_t row = 0; row < product.k; ++row)
        decode_weight_for_gradient(args.weight, n + row, first, columns, tile + row * columns);
      product.a = args.dout + n;
      product.b = tile;
      product.accumulate = n > 0 || args.output == Output::kAccumulate;
      sgemm(product);
    }
  });
}

}  // namespace onggi::cpu

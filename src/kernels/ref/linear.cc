#include <vector>

#include "kernels/ops/weight.h"
#include "kernels/ref/ref.h"

namespace onggi::ref {

void embedding(const OpContext&, const EmbeddingArgs& args) {
  const int64_t width = args.table.columns;
  for (int64_t t = 0; t < args.tokens; ++t)
    decode_weight(args.table, args.ids[t], 0, width, args.out + t * width);
}

void linear(const OpContext&, const LinearArgs& args) {
  const int64_t in = args.weight.columns, out = args.weight.rows;
  std::vector<float> row(static_cast<size_t>(in));
  for (int64_t n = 0; n < out; ++n) {
    decode_weight(args.weight, n, 0, in, row.data());
    for (int64_t t = 0; t < args.tokens; ++t) {
      const float* x = args.x + t * in;
      double sum = 0;
      for (int64_t k = 0; k < in; ++k) sum += double{x[k]} * row[static_cast<size_t>(k)];
      float& result = args.out[t * out + n];
      result = static_cast<float>(args.output == Output::kAccumulate ? result + sum : sum);
    }
  }
}

void linear_backward(const OpContext&, const LinearBackwardArgs& args) {
  const int64_t in = args.weight.columns, out = args.weight.rows;
  std::vector<float> row(static_cast<size_t>(in));
  std::vector<double> dx(static_cast<size_t>(args.tokens * in), 0.0);
  for (int64_t n = 0; n < out; ++n) {
    decode_weight_for_gradient(args.weight, n, 0, in, row.data());
    for (int64_t t = 0; t < args.tokens; ++t) {
      const double dout = args.dout[t * out + n];
      double* dx_t = dx.data() + t * in;
      for (int64_t k = 0; k < in; ++k) dx_t[k] += dout * row[static_cast<size_t>(k)];
    }
  }
  for (int64_t i = 0; i < args.tokens * in; ++i) {
    const double value = dx[static_cast<size_t>(i)];
    args.dx[i] = static_cast<float>(args.output == Output::kAccumulate ? args.dx[i] + value : value);
  }
}

void gemm(const OpContext&, const GemmArgs& args) {
  const bool a_turned = args.transpose_a == Transpose::kYes, b_turned = args.transpose_b == Transpose::kYes;
  const int64_t a_row = a_turned ? 1 : args.k, a_column = a_turned ? args.m : 1;
  const int64_t b_row = b_turned ? 1 : args.n, b_column = b_turned ? args.k : 1;
  for (int64_t i = 0; i < args.m; ++i)
    for (int64_t j = 0; j < args.n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < args.k; ++k)
        sum += double{args.a[i * a_row + k * a_column]} * args.b[k * b_row + j * b_column];
      sum *= args.alpha;
      float& result = args.c[i * args.n + j];
      result = static_cast<float>(args.output == Output::kAccumulate ? result + sum : sum);
    }
}

}  // namespace onggi::ref

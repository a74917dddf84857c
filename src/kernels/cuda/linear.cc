// linear, linear_backward and gemm.
#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/few_token.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/weight_matrix.h"

namespace onggi::cuda {
namespace {

bool takes_few_tokens(const OpContext& context, const LinearArgs& args) {
  AdaptedLinearArgs adapted;
  adapted.x = {const_cast<void*>(args.x.data), args.x.dtype};
  adapted.tokens = args.tokens;
  adapted.members[0].weight = args.weight;
  adapted.members[0].out = args.out;
  if (args.output == Output::kAccumulate) adapted.residual = args.out;
  adapted.precision = args.precision;
  return few_token_linear(context, adapted);
}

}  // namespace

void linear(const OpContext& context, const LinearArgs& args) {
  if (args.tokens == 0 || takes_few_tokens(context, args)) return;
  CudaStream& stream = cuda_stream(context);
  const int64_t rows = args.weight.rows, columns = args.weight.columns;
  const WeightMatrix weight(args.weight, args.x.dtype);
  void* scratch = weight.is_in_place() ? nullptr : stream.scratch(weight.scratch_bytes());
  for (int64_t row = 0; row < rows; row += weight.piece_rows()) {
    const Activation out = args.out.at(row);
    matmul(stream, {.m = args.tokens,
                    .n = std::min(weight.piece_rows(), rows - row),
                    .k = columns,
                    .transpose_b = Transpose::kYes,
                    .a = {args.x.data, args.x.dtype, columns},
                    .b = weight.piece(stream, row, scratch, Nf4Rounding::kExact),
                    .beta = args.output == Output::kAccumulate ? 1.0f : 0.0f,
                    .c = {out.data, out.dtype, rows},
                    .d = out.data,
                    .d_dtype = out.dtype,
                    .d_stride = rows});
  }
}

void linear_backward(const OpContext& context, const LinearBackwardArgs& args) {
  if (args.tokens == 0) return;
  CudaStream& stream = cuda_stream(context);
  const int64_t rows = args.weight.rows, columns = args.weight.columns;
  const WeightMatrix weight(args.weight, args.dout.dtype);
  void* scratch = weight.is_in_place() ? nullptr : stream.scratch(weight.scratch_bytes());
  Output output = args.output;
  for (int64_t row = 0; row < rows; row += weight.piece_rows()) {
    matmul(stream, {.m = args.tokens,
                    .n = columns,
                    .k = std::min(weight.piece_rows(), rows - row),
                    .a = {args.dout.at(row).data, args.dout.dtype, rows},
                    .b = weight.piece(stream, row, scratch, Nf4Rounding::kToBf16),
                    .beta = output == Output::kAccumulate ? 1.0f : 0.0f,
                    .c = {args.dx.data, args.dx.dtype, columns},
                    .d = args.dx.data,
                    .d_dtype = args.dx.dtype,
                    .d_stride = columns});
    output = Output::kAccumulate;
  }
}

void gemm(const OpContext& context, const GemmArgs& args) {
  const bool a_turned = args.transpose_a == Transpose::kYes, b_turned = args.transpose_b == Transpose::kYes;
  matmul(cuda_stream(context), {.m = args.m,
                                .n = args.n,
                                .k = args.k,
                                .transpose_a = args.transpose_a,
                                .transpose_b = args.transpose_b,
                                .alpha = args.alpha,
                                .a = {args.a, DType::kF32, a_turned ? args.m : args.k},
                                .b = {args.b, DType::kF32, b_turned ? args.k : args.n},
                                .beta = args.output == Output::kAccumulate ? 1.0f : 0.0f,
                                .c = {args.c, DType::kF32, args.n},
                                .d = args.c,
                                .d_dtype = DType::kF32,
                                .d_stride = args.n});
}

}  // namespace onggi::cuda

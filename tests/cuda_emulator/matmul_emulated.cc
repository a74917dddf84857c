// The products of kernels/cuda/matmul.h by plain loops: what the tests without a GPU link in place of
// cuBLASLt. Sums in double precision, rounded once.
#include "base/error.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/matmul.h"
#include "tests/cuda_emulator/engine.h"

namespace onggi {
namespace {

float element(const MatrixView& matrix, int64_t row, int64_t column) {
  const int64_t i = row * matrix.stride + column;
  if (matrix.dtype == DType::kF32) return static_cast<const float*>(matrix.data)[i];
  return bf16_to_f32(static_cast<const uint16_t*>(matrix.data)[i]);
}

void multiply(const MatmulArgs& args);

}  // namespace

size_t matmul_workspace_bytes() { return 0; }

// Queued like a kernel: a recording replays it.
void matmul(CudaStream& stream, const MatmulArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  ONGGI_CHECK(args.k > 0 && args.a.dtype == args.b.dtype);
  ONGGI_CHECK(args.a.dtype == DType::kBF16 || args.d_dtype == DType::kF32);
  ONGGI_CHECK(args.beta == 0 || args.c.dtype == args.d_dtype);
  const bool a_turned = args.transpose_a == Transpose::kYes, b_turned = args.transpose_b == Transpose::kYes;
  ONGGI_CHECK(args.a.stride >= (a_turned ? args.m : args.k) && args.b.stride >= (b_turned ? args.k : args.n));
  ONGGI_CHECK(args.d_stride >= args.n && (args.beta == 0 || args.c.stride >= args.n));
  emulator::enqueue(stream.handle(), [args] {
    multiply(args);
    return cudaSuccess;
  });
}

namespace {

void multiply(const MatmulArgs& args) {
  const bool a_turned = args.transpose_a == Transpose::kYes, b_turned = args.transpose_b == Transpose::kYes;
  for (int64_t i = 0; i < args.m; ++i)
    for (int64_t j = 0; j < args.n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < args.k; ++k)
        sum += double{a_turned ? element(args.a, k, i) : element(args.a, i, k)} *
               (b_turned ? element(args.b, j, k) : element(args.b, k, j));
      sum *= args.alpha;
      if (args.beta != 0) sum += double{args.beta} * element(args.c, i, j);
      const auto value = static_cast<float>(sum);
      const int64_t at = i * args.d_stride + j;
      if (args.d_dtype == DType::kF32) {
        static_cast<float*>(args.d)[at] = value;
      } else {
        static_cast<uint16_t*>(args.d)[at] = f32_to_bf16(value);
      }
    }
}

}  // namespace

}  // namespace onggi

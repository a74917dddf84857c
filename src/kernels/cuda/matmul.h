// Plain matrix products on the GPU, by cuBLASLt: the one place that calls it.
//
// The algorithm of a product is the fastest of cuBLASLt's choices for its shape that give the same bits,
// found while the first products of the shape work (matmul_choice.h). Products whose sum over k is split are
// left out: the same build on the same GPU gives the same bits in each run. Queued without waiting but at a
// shape's first product, and so that a recording may be made.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cuda_stream.h"
#include "kernels/ops/linear.h"

namespace onggi {

// A row-major matrix in the device's memory.
struct MatrixView {
  const void* data = nullptr;
  DType dtype = DType::kF32;  // kF32 or kBF16
  int64_t stride = 0;         // elements from row to row, at least its columns
};

// d = alpha op(a) op(b) + beta c, sums in fp32. a and b have one dtype: bf16, or f32 (which is not rounded to
// anything shorter); c has d's. bf16 inputs give bf16 or f32, f32 inputs f32.
struct MatmulArgs {
  int64_t m = 0, n = 0, k = 0;
  Transpose transpose_a = Transpose::kNo;
  Transpose transpose_b = Transpose::kNo;
  float alpha = 1.0f;
  MatrixView a;  // [m, k], or [k, m] when transposed
  MatrixView b;  // [k, n], or [n, k] when transposed
  float beta = 0.0f;
  MatrixView c;       // [m, n], read where beta is not 0; may be d
  void* d = nullptr;  // [m, n]
  DType d_dtype = DType::kF32;
  int64_t d_stride = 0;
};

// Queues the product. MachineError where the library refuses it.
void matmul(CudaStream& stream, const MatmulArgs& args);

// Memory of the device that a stream's first product takes for all of them.
size_t matmul_workspace_bytes();

}  // namespace onggi

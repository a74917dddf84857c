// Placed weights as plain matrices, for products. NF4 is read as kernels/ops/weight.h defines it: rounded to
// bf16 for bf16 products and for gradients, exact in f32 otherwise.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "device/cuda_stream.h"
#include "kernels/ops/linear.h"

namespace onggi::cuda {

// What the columns from K on receive: scale B of LoRA pairs, so that one product takes weight and adapter.
struct LoraColumns {
  const float* b = nullptr;  // f32 [N, R], of the whole weight; null: zeros
  int64_t rank = 0;          // R
  float scale = 0;
  int64_t first_column = 0;  // of the pair, counted from K
  int64_t width = 0;         // columns from K on that are written
};

// Rows [first_row, first_row + rows) of a placed weight of any dtype as bf16 [rows, K], `stride` elements
// from row to row (a multiple of 8 where there are LoRA columns). first_row is a multiple of 16 for block
// types.
struct DequantizeArgs {
  WeightView weight;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t stride = 0;
  LoraColumns lora;
};
void dequantize(CudaStream& stream, const DequantizeArgs& args, __nv_bfloat16* out);

// f32 [rows, K], dense. Gradients see NF4 rounded to bf16.
enum class Nf4Rounding { kExact, kToBf16 };
void dequantize_f32(CudaStream& stream, const DequantizeArgs& args, Nf4Rounding rounding, float* out);

}  // namespace onggi::cuda

// Reading a WeightView of any dtype as f32: the plain definition of what a weight's values are.
#pragma once

#include <cstdint>

#include "kernels/ops/linear.h"

namespace onggi {

// Whether decode_weight knows the dtype: f32, f16, bf16, nf4 and the block types.
bool is_weight_dtype(DType dtype);

// Bytes of one row of the weight's data.
int64_t weight_row_bytes(const WeightView& weight);

// Elements [column, column + count) of row `row` as f32. For block types `column` and `count` are multiples
// of the block's elements; for kNF4 `column` is even. NF4 values are the fp32
// products of code and absmax, as a reference run sees them (tests/golden/logits_nf4.safetensors); bf16
// products round them. InternalError for other dtypes.
void decode_weight(const WeightView& weight, int64_t row, int64_t column, int64_t count, float* out);

// The same as the input's gradient sees it: NF4 values rounded to bf16. bitsandbytes multiplies with the fp32
// values in the forward and with the tensor dequantised to its stored dtype in the backward; gradients agree
// with it (tests/golden/lora_grad0.safetensors) only so.
void decode_weight_for_gradient(const WeightView& weight, int64_t row, int64_t column, int64_t count,
                                float* out);

}  // namespace onggi

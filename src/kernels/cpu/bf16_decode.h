// Weights of any dtype as bf16, fast: the values of decode_weight (kernels/ops/weight.h) rounded to nearest
// even, with subnormal results flushed to zero as vcvtneps2bf16 does. Needs has_avx512_bf16().
#pragma once

#include <cstdint>

#include "kernels/ops/linear.h"

namespace onggi::cpu {

// Elements [column, column + count) of row `row`; for block types multiples of the block, for kNF4 of 64.
void decode_bf16(const WeightView& weight, int64_t row, int64_t column, int64_t count, uint16_t* out);

}  // namespace onggi::cpu

// Linear layers with fp32 products, on any processor: tiles of the weight are decoded to f32 and multiplied
// by oneDNN. The reference precision, and the only one where bf16 dot products are missing.
#pragma once

#include "kernels/ops/linear.h"

namespace onggi::cpu {

void linear_f32(const OpContext& context, const LinearArgs& args);
void linear_backward_f32(const OpContext& context, const LinearBackwardArgs& args);

}  // namespace onggi::cpu

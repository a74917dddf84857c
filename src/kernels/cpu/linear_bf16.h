// Linear layers for many tokens in bf16: tiles of the weight are decoded into bf16 and multiplied at once, so
// that the weight is read from memory in its own format and no bf16 copy of it exists. Needs
// has_avx512_bf16().
#pragma once

#include "kernels/ops/linear.h"

namespace onggi::cpu {

void linear_bf16(const OpContext& context, const LinearArgs& args);
void linear_backward_bf16(const OpContext& context, const LinearBackwardArgs& args);

}  // namespace onggi::cpu

// Training attention in bf16 products and fp32 sums. Needs has_avx512_bf16(); head_dim is a multiple of 2.
#pragma once

#include "kernels/ops/attention.h"

namespace onggi::cpu {

void attention_bf16(const OpContext& context, const AttentionArgs& args);
void attention_backward_bf16(const OpContext& context, const AttentionBackwardArgs& args);

}  // namespace onggi::cpu

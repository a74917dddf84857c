// The CPU's kernels. Each implements the contract of its Args struct (kernels/ops/*.h); the same call with
// the same number of threads gives the same bits.
#pragma once

#include "kernels/ops/attention.h"
#include "kernels/ops/block.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/training.h"

namespace onggi::cpu {

// linear.cc
void embedding(const OpContext& context, const EmbeddingArgs& args);
void linear(const OpContext& context, const LinearArgs& args);
void linear_backward(const OpContext& context, const LinearBackwardArgs& args);
// gemm.cc
void gemm(const OpContext& context, const GemmArgs& args);

}  // namespace onggi::cpu

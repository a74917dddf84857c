// The CUDA kernels of the ops (kernels/ops/*.h), which table.cc enters into the table. They queue work on the
// context's stream, a CudaStream, and return.
#pragma once

#include <vector>

#include "kernels/ops/attention.h"
#include "kernels/ops/block.h"
#include "kernels/ops/linear.h"
#include "kernels/ops/training.h"

namespace onggi::cuda {

// linear.cc
void linear(const OpContext& context, const LinearArgs& args);
void linear_backward(const OpContext& context, const LinearBackwardArgs& args);
void gemm(const OpContext& context, const GemmArgs& args);

// adapted_linear.cc
void adapted_linear(const OpContext& context, const AdaptedLinearArgs& args);
void adapted_linear_backward(const OpContext& context, const AdaptedLinearBackwardArgs& args);
// OpTable::row_padding: room for the u of three adapters.
int64_t row_padding(Precision precision, int64_t rank);

// place_weight.cc
WeightView place_weight(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers);

}  // namespace onggi::cuda

#include "kernels/table.h"

#include "kernels/cuda/cuda.h"
#include "kernels/ops/weight.h"

namespace onggi {
namespace {

OpTable make_cuda_ops() {
  OpTable table{.name = "cuda"};
  for (int i = 0; i < kDTypeCount; ++i) {
    if (!is_weight_dtype(static_cast<DType>(i))) continue;
    const auto entry = static_cast<size_t>(i);
    table.linear[entry] = cuda::linear;
    table.linear_backward[entry] = cuda::linear_backward;
  }
  table.gemm = cuda::gemm;
  table.adapted_linear = cuda::adapted_linear;
  table.adapted_linear_backward = cuda::adapted_linear_backward;
  table.activation_dtype = [](Precision precision) {
    return precision == Precision::kFast ? DType::kBF16 : DType::kF32;
  };
  table.row_padding = cuda::row_padding;
  table.place_weight = cuda::place_weight;
  return table;
}

}  // namespace

const OpTable& cuda_ops() {
  static const OpTable table = make_cuda_ops();
  return table;
}

}  // namespace onggi

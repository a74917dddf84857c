#include "kernels/table.h"

#include "kernels/cuda/block_weight.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/place_file_weights.h"
#include "kernels/cuda/placed_layout.h"
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
  table.attention = cuda::attention;
  table.attention_backward = cuda::attention_backward;
  table.adapted_linear = cuda::adapted_linear;
  table.gated_linear = cuda::gated_linear;
  table.adapted_linear_backward = cuda::adapted_linear_backward;
  table.gated_linear_backward = cuda::gated_linear_backward;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
    table.embedding[static_cast<size_t>(dtype)] = cuda::embedding;
  for (int i = 0; i < kDTypeCount; ++i)
    if (cuda::is_placed_in_tiles(static_cast<DType>(i)))
      table.embedding[static_cast<size_t>(i)] = cuda::embedding_block;
  table.rms_norm = cuda::rms_norm;
  table.rms_norm_backward = cuda::rms_norm_backward;
  table.head_norm_rope = cuda::head_norm_rope;
  table.head_norm_rope_backward = cuda::head_norm_rope_backward;
  table.swiglu = cuda::swiglu;
  table.swiglu_backward = cuda::swiglu_backward;
  table.dropout = cuda::dropout;
  table.gather_rows = cuda::gather_rows;
  table.scatter_rows = cuda::scatter_rows;
  table.cross_entropy = cuda::cross_entropy;
  table.sum_of_squares = cuda::sum_of_squares;
  table.adamw = cuda::adamw;
  table.top_logits = cuda::top_logits;
  table.kv_store = cuda::kv_store;
  table.attention_input = cuda::attention_input;
  table.pass_attention = cuda::pass_attention;
  table.cached_attention = cuda::cached_attention;
  table.activation_dtype = [](Precision precision) {
    return precision == Precision::kFast ? DType::kBF16 : DType::kF32;
  };
  table.row_padding = cuda::row_padding;
  table.workspace_bytes = matmul_workspace_bytes();
  table.place_weight = cuda::place_weight;
  table.place_file_weights = cuda::place_file_weights;
  table.encode_nf4 = cuda::encode_nf4;
  return table;
}

}  // namespace

const OpTable& cuda_ops() {
  static const OpTable table = make_cuda_ops();
  return table;
}

}  // namespace onggi

#include "kernels/table.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/features.h"
#include "kernels/ops/weight.h"

namespace onggi {
namespace {

OpTable make_cpu_ops() {
  cpu::apply_cpu_limit();
  OpTable table{.name = "cpu"};
  for (int i = 0; i < kDTypeCount; ++i) {
    if (!is_weight_dtype(static_cast<DType>(i))) continue;
    const auto entry = static_cast<size_t>(i);
    table.embedding[entry] = cpu::embedding;
    table.linear[entry] = cpu::linear;
    table.linear_backward[entry] = cpu::linear_backward;
  }
  table.gemm = cpu::gemm;
  table.dropout = cpu::dropout;
  table.rms_norm = cpu::rms_norm;
  table.rms_norm_backward = cpu::rms_norm_backward;
  table.head_norm_rope = cpu::head_norm_rope;
  table.head_norm_rope_backward = cpu::head_norm_rope_backward;
  table.swiglu = cpu::swiglu;
  table.swiglu_backward = cpu::swiglu_backward;
  table.gather_rows = cpu::gather_rows;
  table.scatter_rows = cpu::scatter_rows;
  table.attention = cpu::attention;
  table.attention_backward = cpu::attention_backward;
  table.kv_store = cpu::kv_store;
  table.cached_attention = cpu::cached_attention;
  table.cross_entropy = cpu::cross_entropy;
  table.sum_of_squares = cpu::sum_of_squares;
  table.adamw = cpu::adamw;
  return table;
}

}  // namespace

const OpTable& cpu_ops() {
  static const OpTable table = make_cpu_ops();
  return table;
}

}  // namespace onggi

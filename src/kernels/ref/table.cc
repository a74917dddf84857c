#include "kernels/table.h"

#include "kernels/ops/weight.h"
#include "kernels/ref/ref.h"

namespace onggi {
namespace {

OpTable make_ref_ops() {
  OpTable table{.name = "ref"};
  for (int i = 0; i < kDTypeCount; ++i) {
    if (!is_weight_dtype(static_cast<DType>(i))) continue;
    const auto entry = static_cast<size_t>(i);
    table.embedding[entry] = ref::embedding;
    table.linear[entry] = ref::linear;
    table.linear_backward[entry] = ref::linear_backward;
  }
  table.gemm = ref::gemm;
  table.dropout = ref::dropout;
  table.rms_norm = ref::rms_norm;
  table.rms_norm_backward = ref::rms_norm_backward;
  table.head_norm_rope = ref::head_norm_rope;
  table.head_norm_rope_backward = ref::head_norm_rope_backward;
  table.swiglu = ref::swiglu;
  table.swiglu_backward = ref::swiglu_backward;
  table.gather_rows = ref::gather_rows;
  table.scatter_rows = ref::scatter_rows;
  table.attention = ref::attention;
  table.attention_backward = ref::attention_backward;
  table.kv_store = ref::kv_store;
  table.cached_attention = ref::cached_attention;
  table.top_logits = ref::top_logits;
  table.cross_entropy = ref::cross_entropy;
  table.sum_of_squares = ref::sum_of_squares;
  table.adamw = ref::adamw;
  return table;
}

}  // namespace

const OpTable& ref_ops() {
  static const OpTable table = make_ref_ops();
  return table;
}

}  // namespace onggi

#include "kernels/table.h"

#include "base/error.h"
#include "base/text.h"
#include "kernels/cpu/cpu.h"
#include "kernels/ops/weight.h"

namespace onggi {

void throw_unsupported(std::string_view op, DType dtype, std::string_view device) {
  throw InputError(
      text("The device \"{}\" has no kernel of \"{}\" for weights of type {}: choose another device or "
           "quantisation.",
           device, op, dtype_name(dtype)));
}

// Ops that have no fast kernel yet are the oracle's.
const OpTable& cpu_ops() {
  static const OpTable table = [] {
    OpTable copy = ref_ops();
    copy.name = "cpu";
    for (size_t i = 0; i < kDTypeCount; ++i) {
      if (!is_weight_dtype(static_cast<DType>(i))) continue;
      copy.embedding[i] = cpu::embedding;
      copy.linear[i] = cpu::linear;
      copy.linear_backward[i] = cpu::linear_backward;
    }
    copy.gemm = cpu::gemm;
    return copy;
  }();
  return table;
}

}  // namespace onggi

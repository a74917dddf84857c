#include "kernels/table.h"

#include "base/error.h"
#include "base/text.h"

namespace onggi {

void throw_unsupported(std::string_view op, DType dtype, std::string_view device) {
  throw InputError(
      text("The device \"{}\" has no kernel of \"{}\" for weights of type {}: choose another device or "
           "quantisation.",
           device, op, dtype_name(dtype)));
}

// For now the oracle serves as the CPU's table.
const OpTable& cpu_ops() {
  static const OpTable table = [] {
    OpTable copy = ref_ops();
    copy.name = "cpu";
    return copy;
  }();
  return table;
}

}  // namespace onggi

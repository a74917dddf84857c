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

}  // namespace onggi

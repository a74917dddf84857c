// Stands in for kernels/cuda where it is not built.
#include "base/error.h"
#include "base/text.h"
#include "kernels/table.h"

namespace onggi {

const OpTable& cuda_ops() {
  throw MachineError(text(
      "This build of Onggi has no CUDA kernels: build with the preset \"cuda\", or set device = \"cpu\"."));
}

}  // namespace onggi

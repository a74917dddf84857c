// Stands in for the CUDA backend where it is not built.
#include "base/error.h"
#include "base/text.h"
#include "device/device.h"
#include "device/stream.h"

namespace onggi {

int built_cuda_version() { return 0; }

std::unique_ptr<Stream> make_cuda_stream(int device_index) {
  throw MachineError(
      text("This build of Onggi has no CUDA kernels, so GPU {} cannot be used: build with the preset "
           "\"cuda\", or set "
           "device = \"cpu\".",
           device_index));
}

}  // namespace onggi

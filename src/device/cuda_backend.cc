// The CUDA backend, where it is built; cuda_backend_absent.cc stands in elsewhere.
#include "device/cuda_stream.h"

namespace onggi {

int built_cuda_version() { return CUDART_VERSION; }

std::unique_ptr<Stream> make_cuda_stream(int device_index) {
  return std::make_unique<CudaStream>(device_index);
}

}  // namespace onggi

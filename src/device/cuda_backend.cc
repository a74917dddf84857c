// The CUDA backend, where it is built; cuda_backend_absent.cc stands in elsewhere.
#include "device/cuda_stream.h"

namespace onggi {

bool cuda_backend_is_built() { return true; }

std::unique_ptr<Stream> make_cuda_stream(int device_index) {
  return std::make_unique<CudaStream>(device_index);
}

}  // namespace onggi

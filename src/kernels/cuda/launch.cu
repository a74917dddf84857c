#include <string>

#include "kernels/cuda/launch.cuh"

namespace onggi {

namespace {
std::string describe(const dim3& size) {
  return std::to_string(size.x) + " x " + std::to_string(size.y) + " x " + std::to_string(size.z);
}
}  // namespace

void throw_launch_error(cudaError_t status, const char* op, const LaunchShape& shape) {
  check_cuda(status, "cudaLaunchKernelEx",
             std::string("launching the kernel ") + op + " (grid " + describe(shape.grid) + ", block " +
                 describe(shape.block) + ", " + std::to_string(shape.shared_bytes) +
                 " bytes of shared memory)");
  throw_internal_error("status != cudaSuccess", __FILE__, __LINE__, op);
}

}  // namespace onggi

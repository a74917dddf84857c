#include "kernels/cuda/few_token_tensor.cuh"

namespace onggi::cuda {

void launch_few_token_8(CudaStream& stream, const FewTokenParams& params, const LaunchShape& shape) {
  launch(stream, "few_token_8", shape, few_token_kernel<1, 1>, params);
}

}  // namespace onggi::cuda

#include "kernels/cuda/few_token_large.cuh"

namespace onggi::cuda {

void launch_few_token_32(CudaStream& stream, const FewTokenParams& params, const FewTokenLargePlan& plan,
                         const LaunchShape& shape) {
  launch(stream, "few_token_32", shape, few_token_large_kernel<4>, params, plan);
}

}  // namespace onggi::cuda

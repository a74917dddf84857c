#include "kernels/cuda/few_token_large.cuh"

namespace onggi::cuda {

void launch_few_token_32(CudaStream& stream, const FewTokenParams& params, const FewTokenLargePlan& plan,
                         const LaunchShape& shape) {
  launch_large<4>(stream, "few_token_32", params, plan, shape);
}

}  // namespace onggi::cuda

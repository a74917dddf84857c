#include "kernels/cuda/few_token_large.cuh"

namespace onggi::cuda {

void launch_few_token_64(CudaStream& stream, const FewTokenParams& params, const FewTokenLargePlan& plan,
                         const LaunchShape& shape) {
  launch_large<8>(stream, "few_token_64", params, plan, shape);
}

}  // namespace onggi::cuda

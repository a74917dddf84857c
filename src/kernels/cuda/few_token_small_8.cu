#include "kernels/cuda/few_token_small.cuh"

namespace onggi::cuda {

void launch_few_token_8(CudaStream& stream, const FewTokenParams& params, const FewTokenSmallPlan& plan,
                        const LaunchShape& shape) {
  launch_small<SmallInput::kOperands>(stream, "few_token_8", params, plan, shape);
}

}  // namespace onggi::cuda

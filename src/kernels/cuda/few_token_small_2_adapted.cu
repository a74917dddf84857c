#include "kernels/cuda/few_token_small.cuh"

namespace onggi::cuda {

void launch_few_token_2_adapted(CudaStream& stream, const FewTokenParams& params,
                                const FewTokenSmallPlan& plan, const LaunchShape& shape) {
  launch_small<SmallInput::kAdapted>(stream, "few_token_2", params, plan, shape);
}

}  // namespace onggi::cuda

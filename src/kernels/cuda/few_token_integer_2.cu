#include "kernels/cuda/few_token_integer.cuh"

namespace onggi::cuda {

void launch_few_token_integer_2(CudaStream& stream, const FewTokenParams& params,
                                const FewTokenIntegerPlan& plan, const LaunchShape& shape) {
  launch(stream, "few_token_integer_2", shape, few_token_integer_kernel<4>, params, plan);
}

}  // namespace onggi::cuda

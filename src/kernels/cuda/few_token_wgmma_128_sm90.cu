#include "kernels/cuda/few_token_wgmma.cuh"

namespace onggi::cuda {

void launch_few_token_wgmma_128(CudaStream& stream, const FewTokenParams& params,
                                const FewTokenWgmmaPlan& plan, const LaunchShape& shape) {
  launch_wgmma<128>(stream, "few_token_wgmma_128", params, plan, shape);
}

}  // namespace onggi::cuda

// u_i = norm(x) A_i^T of few tokens, in fp32: the first half of the adapters of a group of linear layers.
#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/few_token_lora.h"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = 8;

struct LoraInputParams {
  FewTokenLoraArgs args;
  int first_block[kMaxLinearGroup + 1];  // of each member; a block for each of its ranks
};

// A block has one row of A and all tokens, 8 at a time. A of Qwen3-8B's q, k and v, rank 16: 0.8 MB.
__global__ void __launch_bounds__(kThreads) lora_input_kernel(const __grid_constant__ LoraInputParams p) {
  __shared__ float partials[kThreads / kWarp][2 * kTokens];
  grid_dependency_wait();
  grid_dependency_launch();  // few_token_kernel may read x: what wrote it is done
  const FewTokenLoraArgs& args = p.args;
  int member = 0;
  while (static_cast<int>(blockIdx.x) >= p.first_block[member + 1]) ++member;
  const int rank_row = static_cast<int>(blockIdx.x) - p.first_block[member];
  const FewTokenLoraArgs::Member& lora = args.members[member];
  const float* a = lora.a + static_cast<int64_t>(rank_row) * args.columns;
  for (int first = 0; first < args.tokens; first += kTokens) {
    float dots[kTokens] = {}, squares[kTokens] = {};
    for (int k = threadIdx.x; k < args.columns; k += kThreads) {
      const float weight = args.norm != nullptr ? a[k] * args.norm[k] : a[k];
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        if (first + t >= args.tokens) break;
        const float x = load_activation(args.x, args.x_is_bf16, (first + t) * args.x_stride + k);
        dots[t] = fmaf(weight, x, dots[t]);
        squares[t] = fmaf(x, x, squares[t]);
      }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      dots[t] = warp_sum(dots[t]);
      squares[t] = warp_sum(squares[t]);
      if (lane_index() == 0) {
        partials[warp_index()][t] = dots[t];
        partials[warp_index()][kTokens + t] = squares[t];
      }
    }
    __syncthreads();
    const int token = static_cast<int>(threadIdx.x);
    if (token < kTokens && first + token < args.tokens) {
      float dot = 0, square = 0;
#pragma unroll
      for (int warp = 0; warp < kThreads / kWarp; ++warp) {
        dot += partials[warp][token];
        square += partials[warp][kTokens + token];
      }
      if (args.norm != nullptr) dot *= rsqrtf(square / static_cast<float>(args.columns) + args.epsilon);
      lora.u[static_cast<int64_t>(first + token) * lora.rank + rank_row] = dot;
    }
    __syncthreads();
  }
}

}  // namespace

void few_token_lora_input(CudaStream& stream, const FewTokenLoraArgs& args, Overlap overlap) {
  LoraInputParams params{args, {}};
  int blocks = 0;
  for (int i = 0; i < kMaxLinearGroup; ++i) {
    params.first_block[i] = blocks;
    if (i < args.count) blocks += args.members[i].rank;
  }
  params.first_block[kMaxLinearGroup] = blocks;
  launch(stream, "few_token_lora_input",
         {.grid = static_cast<unsigned>(blocks), .block = kThreads, .overlap = overlap}, lora_input_kernel,
         params);
}

}  // namespace onggi::cuda

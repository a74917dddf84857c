// Adds the sums of slices up, in their order, and finishes the outputs.
#include "kernels/cuda/few_token.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ float sum_of_slices(const FewTokenParams& p, int64_t row, int token) {
  const float* part = p.partials + token * p.partial_rows + row;
  const int64_t stride = p.tokens * p.partial_rows;
  float sum = 0;
#pragma unroll 8
  for (int i = 0; i < p.slices; ++i) sum += part[i * stride];
  return p.factors != nullptr ? p.factors[token] * sum : sum;
}

// One output a thread; blockIdx.y is the token. Gate and up of 64 tokens of Qwen3-8B: 25 MB a slice, in L2.
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ FewTokenParams p) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int token = static_cast<int>(blockIdx.y);
  int row = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (p.activate == Activate::kGate) {
    if (row >= p.members[0].rows) return;
    store_gated(p, row, token, sum_of_slices(p, row, token),
                sum_of_slices(p, p.members[1].first_row + row, token));
    return;
  }
  if (row >= p.partial_rows) return;
  int index = 0;
  while (index + 1 < p.member_count && row >= p.members[index + 1].first_row) ++index;
  const FewTokenMember& member = p.members[index];
  const int own = row - member.first_row;
  if (own < member.rows) store_output(p, member, own, token, sum_of_slices(p, row, token));
}

}  // namespace

void launch_few_token_finish(CudaStream& stream, const FewTokenParams& params, Overlap overlap) {
  const int64_t rows = params.activate == Activate::kGate ? params.members[0].rows : params.partial_rows;
  launch(stream, "few_token_finish",
         {.grid = dim3(blocks_for(rows, kThreads), static_cast<unsigned>(params.tokens)),
          .block = kThreads,
          .overlap = overlap},
         finish_kernel, params);
}

}  // namespace onggi::cuda

// Copies of adapters in bf16, as lora.h describes them. For Qwen3-8B at rank 16: 0.3 to 0.8 MB written a
// group, about 2 us.
#include <cmath>

#include "kernels/cuda/lora.cuh"

namespace onggi::cuda {
namespace {

struct PrepareMember {
  const float* a;
  const float* b;
  int64_t rows;
  int rank;
  BFloat16* a_copy;
  BFloat16* b_turned;
  BFloat16* a_pieces;
};
struct PrepareKernelArgs {
  PrepareMember members[kMaxLinearGroup];
  int64_t columns;
  int padded;
};

__device__ float element_of_a(const PrepareMember& member, int64_t columns, int r, int64_t k) {
  return r < member.rank && k < columns ? member.a[r * columns + k] : 0.0f;
}

// blockIdx.y: the member.
__global__ void __launch_bounds__(kLoraThreads) prepare_lora_kernel(PrepareKernelArgs args) {
  const PrepareMember& member = args.members[blockIdx.y];
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kLoraThreads + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kLoraThreads;
  if (member.a_copy != nullptr) {
    const int64_t width = (args.columns + 7) / 8 * 8;
    for (int64_t i = begin; i < args.padded * width; i += step)
      store_f32(member.a_copy + i,
                element_of_a(member, args.columns, static_cast<int>(i / width), i % width));
  }
  if (member.b_turned != nullptr) {
    const int64_t width = (member.rows + 7) / 8 * 8;
    for (int64_t i = begin; i < args.padded * width; i += step) {
      const int64_t r = i / width, n = i % width;
      const bool inside = r < member.rank && n < member.rows;
      store_f32(member.b_turned + i, inside ? member.b[n * member.rank + r] : 0.0f);
    }
  }
  if (member.a_pieces != nullptr) {
    const int64_t width = (args.columns + 31) / 32 * 32;
    for (int64_t i = begin; i < args.padded * width; i += step) {
      // [k / 32][r / 16][half][lane][8]: words (j, 0), (j, 1) of j = 2 half, 2 half + 1, two elements each.
      const int element = static_cast<int>(i % 8), lane = static_cast<int>(i / 8 % kWarp);
      const int half = static_cast<int>(i / (8 * kWarp) % 2);
      const int64_t piece = i / (16 * kWarp);
      const int rank_tile = static_cast<int>(piece % (args.padded / 16));
      const int j = 2 * half + element / 4, low_or_high = element / 2 % 2;
      const int column = lane / 4, pair = lane % 4;
      const int64_t k = piece / (args.padded / 16) * 32 + 8 * (column / 2) + 2 * j + column % 2;
      const int r = 16 * rank_tile + 8 * low_or_high + 2 * pair + element % 2;
      store_f32(member.a_pieces + i, element_of_a(member, args.columns, r, k));
    }
  }
}

}  // namespace

LoraMask mask_of(const LoraDropout& dropout) {
  LoraMask mask{.seed = dropout.seed};
  mask.threshold = static_cast<uint32_t>(std::lround(double{dropout.probability} * 65536.0));
  if (dropout.probability > 0) mask.inverse_keep = 1.0f / (1.0f - dropout.probability);
  return mask;
}

void prepare_lora(CudaStream& stream, const LoraPrepareArgs& args) {
  PrepareKernelArgs kernel_args{
      .members = {}, .columns = args.columns, .padded = static_cast<int>(padded_rank(args.slot))};
  int64_t longest = args.columns;
  for (int i = 0; i < args.count; ++i) {
    const auto at = static_cast<size_t>(i);
    const LoraMember& member = args.members[at];
    if (member.lora.a == nullptr) continue;
    kernel_args.members[i] = {.a = member.lora.a,
                              .b = member.lora.b,
                              .rows = member.rows,
                              .rank = static_cast<int>(member.lora.rank),
                              .a_copy = args.copies.a[at],
                              .b_turned = args.copies.b_turned[at],
                              .a_pieces = args.copies.a_pieces[at]};
    longest = std::max(longest, member.rows);
  }
  // Four elements a thread.
  const unsigned blocks = blocks_for(kernel_args.padded * longest, 4 * kLoraThreads);
  launch(stream, "prepare_lora", {.grid = {blocks, static_cast<unsigned>(args.count)}, .block = kLoraThreads},
         prepare_lora_kernel, kernel_args);
}

}  // namespace onggi::cuda

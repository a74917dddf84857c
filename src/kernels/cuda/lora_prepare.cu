// Copies of adapters in bf16, as lora.h describes them. For Qwen3-8B at rank 16: 0.3 to 0.8 MB written a
// group, about 2 us.
#include <cmath>

#include "kernels/cuda/lora.cuh"

namespace onggi::cuda {
namespace {

struct PrepareMember {
  const float* a;
  const float* b;
  int rows, rank;
  BFloat16* a_copy;
  BFloat16* b_turned;
  BFloat16* a_pieces;
};
struct PrepareKernelArgs {
  PrepareMember members[kMaxLinearGroup];
  int columns, padded;
};

__device__ __forceinline__ float element_of_a(const PrepareMember& member, int columns, int r, int k) {
  return r < member.rank && k < columns ? member.a[static_cast<int64_t>(r) * columns + k] : 0.0f;
}

// Each thread makes one vector of eight elements of each copy. blockIdx.y: the member.
__global__ void __launch_bounds__(kLoraThreads) prepare_lora_kernel(PrepareKernelArgs args) {
  grid_dependency_launch();
  grid_dependency_wait();
  const PrepareMember& member = args.members[blockIdx.y];
  const int vector = static_cast<int>(blockIdx.x) * kLoraThreads + static_cast<int>(threadIdx.x);
  const int columns = args.columns, rows = member.rows, padded = args.padded;
  float values[8];
  if (const int row_vectors = (columns + 7) / 8; member.a_copy != nullptr && vector < padded * row_vectors) {
    const int r = vector / row_vectors, k = 8 * (vector - r * row_vectors);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] = element_of_a(member, columns, r, k + i);
    store_8(member.a_copy + int64_t{8} * vector, values);
  }
  // Neighbouring lanes have neighbouring ranks, as B has.
  if (const int row_vectors = (rows + 7) / 8; member.b_turned != nullptr && vector < padded * row_vectors) {
    const int r = vector % padded, n = 8 * (vector / padded);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const bool inside = r < member.rank && n + i < rows;
      values[i] = inside ? member.b[static_cast<int64_t>(n + i) * member.rank + r] : 0.0f;
    }
    store_8(member.b_turned + int64_t{8} * (r * row_vectors) + n, values);
  }
  if (member.a_pieces != nullptr && vector < padded * ((columns + 31) / 32 * 4)) {
    // [k / 32][r / 16][half][lane][8]: words (j, 0), (j, 1) of j = 2 half, 2 half + 1, two elements each.
    const int lane = vector % kWarp, half = vector / kWarp % 2, piece = vector / (2 * kWarp);
    const int tiles = padded / 16, rank_tile = piece % tiles, column = lane / 4, pair = lane % 4;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int j = 2 * half + i / 4, low_or_high = i / 2 % 2;
      const int k = piece / tiles * 32 + 8 * (column / 2) + 2 * j + column % 2;
      values[i] = element_of_a(member, columns, 16 * rank_tile + 8 * low_or_high + 2 * pair + i % 2, k);
    }
    store_8(member.a_pieces + int64_t{8} * vector, values);
  }
}

}  // namespace

LoraMask mask_of(const LoraDropout& dropout) {
  LoraMask mask{.seed = dropout.seed, .first_stream = dropout.first_stream};
  mask.threshold = static_cast<uint32_t>(std::lround(double{dropout.probability} * 65536.0));
  if (dropout.probability > 0) mask.inverse_keep = 1.0f / (1.0f - dropout.probability);
  return mask;
}

// As few splits as keep nearly all multiprocessors busy till the end: each writes another part of the sums.
LoraSplits lora_splits(const CudaStream& stream, int64_t blocks, int64_t tokens) {
  constexpr int64_t kMostRounds = 4;
  const int64_t at_once = int64_t{2} * stream.multiprocessors();
  int64_t wanted = 1, best_busy = 0;  // busy: in thousandths
  for (int64_t rounds = 1; rounds <= kMostRounds && best_busy < 950; ++rounds) {
    const int64_t splits = rounds * at_once / blocks, busy = 1000 * splits * blocks / (rounds * at_once);
    if (splits > 0 && busy > best_busy) wanted = splits, best_busy = busy;
  }
  const int64_t each = rounded_to((tokens + wanted - 1) / wanted, 16);
  return {each, (tokens + each - 1) / each};
}

void prepare_lora(CudaStream& stream, const LoraPrepareArgs& args) {
  PrepareKernelArgs kernel_args{.members = {},
                                .columns = static_cast<int>(args.columns),
                                .padded = static_cast<int>(padded_rank(args.slot))};
  int64_t longest = args.columns;
  for (int i = 0; i < args.count; ++i) {
    const auto at = static_cast<size_t>(i);
    const LoraMember& member = args.members[at];
    if (member.lora.a == nullptr) continue;
    kernel_args.members[i] = {.a = member.lora.a,
                              .b = member.lora.b,
                              .rows = static_cast<int>(member.rows),
                              .rank = static_cast<int>(member.lora.rank),
                              .a_copy = args.copies.a[at],
                              .b_turned = args.copies.b_turned[at],
                              .a_pieces = args.copies.a_pieces[at]};
    longest = std::max(longest, member.rows);
  }
  const unsigned blocks = blocks_for(kernel_args.padded * rounded_to(longest, 32) / 8, kLoraThreads);
  launch(stream, "prepare_lora",
         {.grid = {blocks, static_cast<unsigned>(args.count)},
          .block = kLoraThreads,
          .overlap = Overlap::kWithPrevious},
         prepare_lora_kernel, kernel_args);
}

}  // namespace onggi::cuda

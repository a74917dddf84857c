#include <algorithm>

#include "kernels/cuda/lora.cuh"

namespace onggi::cuda {
namespace {

struct InputMember {
  const BFloat16* du;        // [T, padded_rank], rows du_stride apart; null: no adapter
  const BFloat16* a_pieces;  // [K rounded to 32, / 32][padded_rank / 16][2][32 lanes][8]
  float* a_gradient;         // f32 [R, K]
  int rank;
  uint64_t stream;
};
struct InputKernelArgs {
  Bf16Matrix x;
  InputMember members[kMaxLinearGroup];
  int count;
  LoraMask mask;
  BFloat16* dx;
  bool accumulates;
  int64_t tokens_per_split;
  int splits;
  int padded;
  int64_t du_stride;
  int first_rank;   // of this launch
  float* partials;  // f32 [splits][count][ranks of the launch][K rounded to 8]; null: no sums for A
};

constexpr int kWarpColumns = 32;
constexpr int kBlockColumns = kWarpColumns * kLoraWarps;

__device__ __forceinline__ void store_row_8(BFloat16* row, int64_t column, int64_t columns, bool vectors,
                                            const float (&values)[8]) {
  if (vectors) return store_8(row + column, values);
  for (int i = 0; i < 8; ++i)
    if (column + i < columns) store_f32(row + column + i, values[i]);
}

// A lane's part of its split's sums.
template <int kMembers, int kTiles>
__device__ __forceinline__ void store_sums(const InputKernelArgs& args, int64_t column,
                                           const float (&da)[kMembers][4][kTiles][4]) {
  const int group = lane_index() / 4;
  const int64_t width = (args.x.columns + 7) / 8 * 8;
  if (column >= width) return;
#pragma unroll
  for (int i = 0; i < kMembers; ++i) {
    if (i >= args.count) break;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float values[8];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          values[2 * j] = da[i][j][tile][2 * half];
          values[2 * j + 1] = da[i][j][tile][2 * half + 1];
        }
        const int64_t r = 16 * tile + 8 * half + group;
        const int64_t row = (static_cast<int64_t>(blockIdx.y) * args.count + i) * 16 * kTiles + r;
        store_8(args.partials + row * width + column, values);
      }
  }
}

// A block takes 256 columns (blockIdx.x) in steps of 16 tokens of its split (blockIdx.y); a warp has 32
// columns, its sums of dA in registers till the end. 16 kTiles ranks.
template <int kMembers, int kTiles, Rows kRows>
__global__ void __launch_bounds__(kLoraThreads, kTiles == 1 && kMembers < 3 ? 2 : 1)
    lora_input_gradient_kernel(const InputKernelArgs args) {
  grid_dependency_launch();
  grid_dependency_wait();
  constexpr bool kVectors = kRows == Rows::kVectors;
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kBlockColumns + kWarpColumns * warp_index();
  const int64_t columns = args.x.columns, column = first_column + 8 * pair;
  if (first_column >= columns) return;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * args.tokens_per_split;
  const int64_t end = min(begin + args.tokens_per_split, args.x.rows);
  const Bf16Matrix dx_before{args.dx, columns, args.accumulates ? args.x.rows : 0, columns};
  const int64_t piece = first_column / kWarpColumns * (args.padded / 16) + args.first_rank / 16;
  const uint64_t first_stream = first_stream_of(args.mask);
  float da[kMembers][4][kTiles][4] = {};

  uint4 next[2] = {}, next_before[2];
  const auto load = [&](int64_t t0) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (args.partials != nullptr) next[half] = args.x.template load_8<kRows>(t0 + 8 * half + group, column);
      next_before[half] = dx_before.template load_8<kRows>(t0 + 8 * half + group, column);
    }
  };
  load(begin);
  for (int64_t t0 = begin; t0 < end; t0 += 16) {
    const uint4 x[2] = {next[0], next[1]}, before[2] = {next_before[0], next_before[1]};
    if (t0 + 16 < end) load(t0 + 16);
    float sums[4][4] = {};  // words j of rows group and group + 8
#pragma unroll
    for (int i = 0; i < kMembers; ++i) {
      const InputMember& member = args.members[i];
      if (i >= args.count || member.du == nullptr) continue;
      uint4 kept[2] = {make_uint4(~0U, ~0U, ~0U, ~0U), make_uint4(~0U, ~0U, ~0U, ~0U)};
      if (args.mask.threshold > 0) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
          kept[half] = kept_of_8<kRows>(args.mask, first_stream + member.stream,
                                        (t0 + 8 * half + group) * columns + column);
      }
      const RankMatrix du_rows{member.du, args.du_stride, args.x.rows, args.padded};
      uint32_t du[kTiles][4], turned[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int word = 0; word < 4; ++word)
          du[tile][word] = load_ranks(du_rows, t0 + group + 8 * (word % 2),
                                      args.first_rank + 16 * tile + 8 * (word / 2) + 2 * pair);
        turn_operand(du[tile], turned[tile]);
      }
      if (args.dx != nullptr) {
        float products[4][4] = {};
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const uint4 a = *reinterpret_cast<const uint4*>(member.a_pieces +
                                                            (((piece + tile) * 2 + half) * kWarp + lane) * 8);
            mma_m16n8k16_bf16(products[2 * half], du[tile], a.x, a.y);
            mma_m16n8k16_bf16(products[2 * half + 1], du[tile], a.z, a.w);
          }
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const uint32_t word = word_of(kept[half], j);
            sums[j][2 * half] += (word & 0xFFFFU) != 0 ? products[j][2 * half] : 0.0f;
            sums[j][2 * half + 1] += (word >> 16) != 0 ? products[j][2 * half + 1] : 0.0f;
          }
      }
      if (args.partials == nullptr) continue;
      const uint4 masked[2] = {x[0] & kept[0], x[1] & kept[1]};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t b0 = movmatrix_trans(word_of(masked[0], j));
        const uint32_t b1 = movmatrix_trans(word_of(masked[1], j));
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) mma_m16n8k16_bf16(da[i][j][tile], turned[tile], b0, b1);
      }
    }
    if (args.dx == nullptr || column >= columns) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = t0 + 8 * half + group;
      if (t >= end) continue;
      float values[8];
      unpack_bf16_8(before[half], values);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        values[2 * j] += args.mask.inverse_keep * sums[j][2 * half];
        values[2 * j + 1] += args.mask.inverse_keep * sums[j][2 * half + 1];
      }
      store_row_8(args.dx + t * columns, column, columns, kVectors, values);
    }
  }

  if (args.partials != nullptr) store_sums(args, column, da);
}

// The sums for A alone, cut in the same way. Two steps are on their way while one is computed.
template <int kMembers, int kTiles>
struct SumsStep {
  uint4 x[2];
  uint32_t du[kMembers][kTiles][4];
};
template <int kMembers, int kTiles, Rows kRows>
__global__ void __launch_bounds__(kLoraThreads, kTiles == 1 && kMembers < 3 ? 2 : 1)
    lora_a_gradient_kernel(const InputKernelArgs args) {
  grid_dependency_launch();
  grid_dependency_wait();
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kBlockColumns + kWarpColumns * warp_index();
  const int64_t columns = args.x.columns, column = first_column + 8 * pair;
  if (first_column >= columns) return;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * args.tokens_per_split;
  const int64_t end = min(begin + args.tokens_per_split, args.x.rows);
  const uint64_t first_stream = first_stream_of(args.mask);
  float da[kMembers][4][kTiles][4] = {};
  using Step = SumsStep<kMembers, kTiles>;

  const auto load = [&](int64_t t0, Step& step) {
    if (t0 >= end) return;
#pragma unroll
    for (int half = 0; half < 2; ++half)
      step.x[half] = args.x.template load_8<kRows>(t0 + 8 * half + group, column);
#pragma unroll
    for (int i = 0; i < kMembers; ++i) {
      const BFloat16* du = args.members[i].du;
      const RankMatrix rows{du, args.du_stride, i < args.count && du != nullptr ? args.x.rows : 0,
                            args.padded};
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int word = 0; word < 4; ++word)
          step.du[i][tile][word] = load_ranks(rows, t0 + group + 8 * (word % 2),
                                              args.first_rank + 16 * tile + 8 * (word / 2) + 2 * pair);
    }
  };
  const auto add = [&](int64_t t0, const Step& step) {
    if (t0 >= end) return;
#pragma unroll
    for (int i = 0; i < kMembers; ++i) {
      if (i >= args.count) continue;
      uint4 x[2] = {step.x[0], step.x[1]};
      if (args.mask.threshold > 0) {
#pragma unroll
        for (int half = 0; half < 2; ++half)
          x[half] = x[half] & kept_of_8<kRows>(args.mask, first_stream + args.members[i].stream,
                                               (t0 + 8 * half + group) * columns + column);
      }
      uint32_t turned[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) turn_operand(step.du[i][tile], turned[tile]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t b0 = movmatrix_trans(word_of(x[0], j)), b1 = movmatrix_trans(word_of(x[1], j));
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) mma_m16n8k16_bf16(da[i][j][tile], turned[tile], b0, b1);
      }
    }
  };
  Step even, odd;
  load(begin, even);
  load(begin + 16, odd);
  for (int64_t t0 = begin; t0 < end; t0 += 32) {
    const Step first = even;
    load(t0 + 32, even);
    add(t0, first);
    const Step second = odd;
    load(t0 + 48, odd);
    add(t0 + 16, second);
  }
  store_sums(args, column, da);
}

// Adds the parts of dA. blockIdx.x: columns, y: the rank within the launch, z: the member.
__global__ void __launch_bounds__(kLoraThreads) lora_input_sums_kernel(const InputKernelArgs args) {
  grid_dependency_launch();
  grid_dependency_wait();
  const InputMember& member = args.members[blockIdx.z];
  const auto rank = static_cast<int>(args.first_rank + blockIdx.y);
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kLoraThreads + threadIdx.x;
  if (member.du == nullptr || rank >= member.rank || k >= args.x.columns) return;
  const int64_t width = (args.x.columns + 7) / 8 * 8;
  const int64_t split_step = static_cast<int64_t>(args.count) * gridDim.y * width;
  const float* from = args.partials + (static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y) * width + k;
  float sum = 0;
#pragma unroll 4
  for (int split = 0; split < args.splits; ++split) sum += from[split * split_step];
  member.a_gradient[rank * args.x.columns + k] += args.mask.inverse_keep * sum;
}

struct InputPlan {
  int ranks = 16;  // of a launch
  int64_t tokens_per_split = 0;
  int splits = 1;
  int64_t partials = 0;  // floats
};
InputPlan plan_of(const CudaStream& stream, const LoraInputGradientArgs& args) {
  InputPlan plan;
  plan.ranks = padded_rank(args.slot) == 16 ? 16 : kLoraChunk;
  const LoraSplits splits = lora_splits(stream, blocks_for(args.columns, kBlockColumns), args.tokens);
  plan.tokens_per_split = splits.tokens;
  plan.splits = static_cast<int>(splits.count);
  plan.partials = int64_t{plan.splits} * args.count * plan.ranks * rounded_to(args.columns, 8);
  return plan;
}

template <int kMembers, int kTiles, Rows kRows>
void launch_input(CudaStream& stream, const InputKernelArgs& args) {
  launch(stream, args.dx == nullptr ? "lora_a_gradient" : "lora_input_gradient",
         {.grid = {blocks_for(args.x.columns, kBlockColumns), static_cast<unsigned>(args.splits)},
          .block = kLoraThreads,
          .overlap = Overlap::kWithPrevious},
         args.dx == nullptr ? lora_a_gradient_kernel<kMembers, kTiles, kRows>
                            : lora_input_gradient_kernel<kMembers, kTiles, kRows>,
         args);
}

}  // namespace

int64_t lora_input_partials(const CudaStream& stream, const LoraInputGradientArgs& args) {
  return plan_of(stream, args).partials;
}

// Reads x once and writes dx once (reads it too where it accumulates): 4 T K bytes. Qwen3-8B, T = 4096: 67 MB
// for K = 4096, 25 us; 201 MB for K = 12288, 75 us. A mask, drawn once for both uses, costs about 90
// instructions per 8 elements and member: with two members two thirds of what the memory takes.
void lora_input_gradient(CudaStream& stream, const LoraInputGradientArgs& args) {
  const InputPlan plan = plan_of(stream, args);
  InputKernelArgs kernel_args{.x = {args.x, args.x_stride, args.tokens, args.columns},
                              .members = {},
                              .count = args.count,
                              .mask = args.mask,
                              .dx = args.dx,
                              .accumulates = args.dx != nullptr && args.output == Output::kAccumulate,
                              .tokens_per_split = plan.tokens_per_split,
                              .splits = plan.splits,
                              .padded = static_cast<int>(padded_rank(args.slot)),
                              .du_stride = args.du_stride,
                              .first_rank = 0,
                              .partials = args.partials};
  for (int i = 0; i < args.count; ++i) {
    const auto at = static_cast<size_t>(i);
    const LoraMember& member = args.members[at];
    if (member.lora.a == nullptr) continue;
    kernel_args.members[i] = {.du = args.du[at],
                              .a_pieces = args.a_pieces[at],
                              .a_gradient = args.a_gradient[at],
                              .rank = static_cast<int>(member.lora.rank),
                              .stream = member.dropout_stream};
  }
  const bool vectors = kernel_args.x.has_vector_rows() && reinterpret_cast<uintptr_t>(args.dx) % 16 == 0;
  for (int64_t rank = 0; rank < args.slot; rank += kLoraChunk) {
    kernel_args.first_rank = static_cast<int>(rank);
    if (plan.ranks == 16) {
      !vectors          ? launch_input<3, 1, Rows::kAny>(stream, kernel_args)
      : args.count == 1 ? launch_input<1, 1, Rows::kVectors>(stream, kernel_args)
      : args.count == 2 ? launch_input<2, 1, Rows::kVectors>(stream, kernel_args)
                        : launch_input<3, 1, Rows::kVectors>(stream, kernel_args);
    } else {
      !vectors          ? launch_input<3, 2, Rows::kAny>(stream, kernel_args)
      : args.count == 1 ? launch_input<1, 2, Rows::kVectors>(stream, kernel_args)
                        : launch_input<3, 2, Rows::kVectors>(stream, kernel_args);
    }
    if (args.partials != nullptr)
      launch(stream, "lora_input_sums",
             {.grid = {blocks_for(args.columns, kLoraThreads), static_cast<unsigned>(plan.ranks),
                       static_cast<unsigned>(args.count)},
              .block = kLoraThreads,
              .overlap = Overlap::kWithPrevious},
             lora_input_sums_kernel, kernel_args);
    kernel_args.accumulates = args.dx != nullptr;
  }
}

}  // namespace onggi::cuda

#include "kernels/cuda/lora.cuh"

namespace onggi::cuda {
namespace {

struct DownMember {
  const BFloat16* a;  // [padded_rank, K rounded to 8]; null: no adapter
  BFloat16* kept;
  int rank;
  uint64_t stream;
};
struct DownKernelArgs {
  Bf16Matrix x;
  DownMember members[kMaxLinearGroup];
  int count;
  LoraMask mask;
  int slot;
  int first_rank;         // of this launch
  int64_t split_columns;  // of each blockIdx.y, whose sums meet within their cluster
  BFloat16* u;
  int64_t u_stride, u_width;
};

// What a lane holds of a step over 32 columns: of the tokens' x, and of the members' A.
template <int kMembers, int kTiles, int kRowTiles>
struct DownStep {
  uint4 x[kRowTiles][2];
  uint4 a[kMembers][kTiles];
};

// A block computes 16 kRowTiles tokens for up to 8 kTiles ranks of all members, over its split of the
// columns: its warps take turns at the steps of 32 columns, with the next one or two on their way, and their
// sums are added at the end. Shared memory: the sums of all warps, f32 [warps][16 kRowTiles][count 8 kTiles];
// then, where there are splits, what the block finishes, from each of them.
template <int kMembers, int kTiles, int kRowTiles, Rows kRows>
__global__ void __launch_bounds__(kLoraThreads) lora_down_kernel(const DownKernelArgs args) {
  grid_dependency_launch();
  grid_dependency_wait();
  constexpr int kTokens = 16 * kRowTiles, kStep = 32 * kLoraWarps;
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * kTokens;
  const int64_t columns = args.x.columns, a_stride = (columns + 7) / 8 * 8;
  const uint64_t first_stream = first_stream_of(args.mask);
  float sums[kMembers][kRowTiles][kTiles][4] = {};
  using Step = DownStep<kMembers, kTiles, kRowTiles>;

  const auto load = [&](int64_t column, Step& step) {
    const int64_t k = column + 8 * pair;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        step.x[tile][half] = args.x.template load_8<kRows>(first_token + 16 * tile + 8 * half + group, k);
#pragma unroll
    for (int i = 0; i < kMembers; ++i) {
      const BFloat16* a = args.members[i].a;
      const bool inside = i < args.count && a != nullptr && k < a_stride;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int64_t r = args.first_rank + 8 * tile + group;
        step.a[i][tile] =
            inside ? *reinterpret_cast<const uint4*>(a + r * a_stride + k) : make_uint4(0, 0, 0, 0);
      }
    }
  };
  const auto multiply = [&](int64_t column, const Step& step) {
    const int64_t k = column + 8 * pair;
#pragma unroll
    for (int i = 0; i < kMembers; ++i) {
      if (i >= args.count) continue;
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        uint4 kept[2] = {step.x[tile][0], step.x[tile][1]};
        if (args.mask.threshold > 0) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int64_t t = first_token + 16 * tile + 8 * half + group;
            kept[half] = kept[half] &
                         kept_of_8<kRows>(args.mask, first_stream + args.members[i].stream, t * columns + k);
          }
        }
        const uint32_t low[4] = {kept[0].x, kept[1].x, kept[0].y, kept[1].y};
        const uint32_t high[4] = {kept[0].z, kept[1].z, kept[0].w, kept[1].w};
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          const uint4& a = step.a[i][n];
          mma_m16n8k16_bf16(sums[i][tile][n], low, a.x, a.y);
          mma_m16n8k16_bf16(sums[i][tile][n], high, a.z, a.w);
        }
      }
    }
  };
  // Beyond the last column all is zero.
  const int64_t begin = args.split_columns * blockIdx.y, end = min(begin + args.split_columns, columns);
  int64_t column = begin + 32 * warp_index();
  if constexpr (kMembers < 3) {
    Step even, odd;
    load(column, even);
    load(column + kStep, odd);
    for (; column < end; column += 2 * kStep) {
      const Step first = even;
      load(column + 2 * kStep, even);
      multiply(column, first);
      const Step second = odd;
      load(column + 3 * kStep, odd);
      if (column + kStep < end) multiply(column + kStep, second);
    }
  } else {  // as many as there are registers for
    Step next;
    load(column, next);
    for (; column < end; column += kStep) {
      const Step step = next;
      load(column + kStep, next);
      multiply(column, step);
    }
  }

  constexpr int kRanks = 8 * kTiles;
  const int width = args.count * kRanks;
  float* shared = dynamic_shared<float>();
  float* own = shared + warp_index() * kTokens * width;
#pragma unroll
  for (int i = 0; i < kMembers; ++i) {
    if (i >= args.count) break;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile)
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        float* to = own + (16 * tile + group) * width + i * kRanks + 8 * n + 2 * pair;
        to[0] = sums[i][tile][n][0], to[1] = sums[i][tile][n][1];
        to[8 * width] = sums[i][tile][n][2], to[8 * width + 1] = sums[i][tile][n][3];
      }
  }
  __syncthreads();
  const auto sum_of_warps = [&](int at) {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kLoraWarps; ++warp) sum += shared[warp * kTokens * width + at];
    return sum;
  };
  const auto store = [&](int at, float sum) {
    const int64_t t = first_token + at / width;
    const int i = at % width / kRanks, r = args.first_rank + at % kRanks;
    if (t >= args.x.rows || r >= args.slot) return;
    sum *= args.mask.inverse_keep;
    store_f32(args.u + t * args.u_stride + i * args.slot + r, sum);
    const DownMember& member = args.members[i];
    if (member.kept != nullptr && r < member.rank) store_f32(member.kept + t * member.rank + r, sum);
  };
  const int outputs = kTokens * width, splits = static_cast<int>(gridDim.y);
  if (splits == 1) {
    for (int at = threadIdx.x; at < outputs; at += kLoraThreads) store(at, sum_of_warps(at));
  } else {
    // Each block of the cluster finishes a share of the outputs.
    const int share = (outputs + splits - 1) / splits, split = static_cast<int>(blockIdx.y);
    float* given = shared + kLoraWarps * outputs;
    cluster_arrive();
    cluster_wait();  // all blocks have started
    for (int at = threadIdx.x; at < outputs; at += kLoraThreads)
      cluster_store(given + split * share + at % share, at / share, sum_of_warps(at));
    cluster_arrive();
    cluster_wait();
    for (int at = threadIdx.x; at < share && split * share + at < outputs; at += kLoraThreads) {
      float sum = 0;
      for (int other = 0; other < splits; ++other) sum += given[other * share + at];
      store(split * share + at, sum);
    }
    if (split > 0) return;
  }
  if (args.first_rank > 0) return;
  const auto padding = static_cast<int>(args.u_width - args.count * args.slot);
  for (int at = threadIdx.x; at < kTokens * padding; at += kLoraThreads) {
    const int64_t t = first_token + at / padding;
    if (t < args.x.rows) store_f32(args.u + t * args.u_stride + args.count * args.slot + at % padding, 0.0f);
  }
}

// As many as there are multiprocessors for, each with two steps of its warps at least. Clusters need Hopper
// and several multiprocessors that lie together.
int down_splits(const CudaStream& stream, int64_t blocks, int64_t columns) {
  constexpr int kMost = 8, kLeastMultiprocessors = 16;
  constexpr int64_t kLeastColumns = 2 * 32 * kLoraWarps;
  if (stream.compute_capability() != 90 || stream.multiprocessors() < kLeastMultiprocessors) return 1;
  int splits = 1;
  while (splits < kMost && 2 * splits * blocks <= stream.multiprocessors() &&
         columns >= 2 * splits * kLeastColumns)
    splits *= 2;
  return splits;
}

template <int kMembers, int kTiles, int kRowTiles, Rows kRows>
void launch_down(CudaStream& stream, DownKernelArgs args) {
  constexpr int kTokens = 16 * kRowTiles, kStep = 32 * kLoraWarps;
  const unsigned blocks = blocks_for(args.x.rows, kTokens);
  const int splits = down_splits(stream, blocks, args.x.columns);
  const int64_t steps = (args.x.columns + kStep - 1) / kStep;
  args.split_columns = (steps + splits - 1) / splits * kStep;
  const size_t outputs = kTokens * static_cast<size_t>(args.count) * 8 * kTiles;
  const size_t given = splits > 1 ? outputs + static_cast<size_t>(splits * splits) : 0;
  launch(stream, "lora_down",
         {.grid = dim3(blocks, static_cast<unsigned>(splits)),
          .block = kLoraThreads,
          .shared_bytes = sizeof(float) * (kLoraWarps * outputs + given),
          .overlap = Overlap::kWithPrevious,
          .cluster_y = static_cast<unsigned>(splits)},
         lora_down_kernel<kMembers, kTiles, kRowTiles, kRows>, args);
}

}  // namespace

// Reads x once: 2 T K bytes, and A for each 16 or 32 tokens, from L2. Qwen3-8B, T = 4096: 34 MB for
// K = 4096, 12 us; 101 MB for K = 12288, 36 us. A mask costs about 90 instructions per 8 elements and
// member, less than the memory takes.
void lora_down(CudaStream& stream, const LoraDownArgs& args) {
  DownKernelArgs kernel_args{.x = {args.x, args.x_stride, args.tokens, args.columns},
                             .members = {},
                             .count = args.count,
                             .mask = args.mask,
                             .slot = static_cast<int>(args.slot),
                             .first_rank = 0,
                             .split_columns = 0,
                             .u = args.u,
                             .u_stride = args.u_stride,
                             .u_width = args.u_width};
  for (int i = 0; i < args.count; ++i) {
    const auto at = static_cast<size_t>(i);
    kernel_args.members[i] = {.a = args.a[at],
                              .kept = args.kept[at],
                              .rank = static_cast<int>(args.members[at].lora.rank),
                              .stream = args.members[at].dropout_stream};
  }
  const bool vectors = kernel_args.x.has_vector_rows();
  for (int64_t rank = 0; rank < args.slot; rank += kLoraChunk) {
    kernel_args.first_rank = static_cast<int>(rank);
    if (!vectors) {
      launch_down<3, 4, 1, Rows::kAny>(stream, kernel_args);
    } else if (padded_rank(args.slot) == 16) {
      args.count == 1   ? launch_down<1, 2, 2, Rows::kVectors>(stream, kernel_args)
      : args.count == 2 ? launch_down<2, 2, 2, Rows::kVectors>(stream, kernel_args)
                        : launch_down<3, 2, 2, Rows::kVectors>(stream, kernel_args);
    } else {
      args.count == 1 ? launch_down<1, 4, 1, Rows::kVectors>(stream, kernel_args)
                      : launch_down<3, 4, 1, Rows::kVectors>(stream, kernel_args);
    }
  }
}

}  // namespace onggi::cuda

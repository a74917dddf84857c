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
  int first_rank;  // of this launch
  BFloat16* u;
  int64_t u_stride, u_width;
};

// What a lane holds of a step over 32 columns: of the tokens' x, and of the members' A.
template <int kMembers, int kTiles, int kRowTiles>
struct DownStep {
  uint4 x[kRowTiles][2];
  uint4 a[kMembers][kTiles];
};

// A block computes 16 kRowTiles tokens for up to 8 kTiles ranks of all members: its warps take turns at the
// steps of 32 columns, with the next one or two on their way, and their sums are added at the end. Shared
// memory: the sums of all warps, f32 [warps][16 kRowTiles][count 8 kTiles].
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
  int64_t column = 32 * warp_index();
  if constexpr (kMembers < 3) {
    Step even, odd;
    load(column, even);
    load(column + kStep, odd);
    for (; column < columns; column += 2 * kStep) {
      const Step first = even;
      load(column + 2 * kStep, even);
      multiply(column, first);
      const Step second = odd;
      load(column + 3 * kStep, odd);
      if (column + kStep < columns) multiply(column + kStep, second);
    }
  } else {  // as many as there are registers for
    Step next;
    load(column, next);
    for (; column < columns; column += kStep) {
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
  for (int at = threadIdx.x; at < kTokens * width; at += kLoraThreads) {
    const int64_t t = first_token + at / width;
    const int i = at % width / kRanks, r = args.first_rank + at % kRanks;
    if (t >= args.x.rows || r >= args.slot) continue;
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kLoraWarps; ++warp) sum += shared[warp * kTokens * width + at];
    sum *= args.mask.inverse_keep;
    store_f32(args.u + t * args.u_stride + i * args.slot + r, sum);
    const DownMember& member = args.members[i];
    if (member.kept != nullptr && r < member.rank) store_f32(member.kept + t * member.rank + r, sum);
  }
  if (args.first_rank > 0) return;
  const auto padding = static_cast<int>(args.u_width - args.count * args.slot);
  for (int at = threadIdx.x; at < kTokens * padding; at += kLoraThreads) {
    const int64_t t = first_token + at / padding;
    if (t < args.x.rows) store_f32(args.u + t * args.u_stride + args.count * args.slot + at % padding, 0.0f);
  }
}

template <int kMembers, int kTiles, int kRowTiles, Rows kRows>
void launch_down(CudaStream& stream, const DownKernelArgs& args) {
  constexpr int kTokens = 16 * kRowTiles;
  launch(stream, "lora_down",
         {.grid = blocks_for(args.x.rows, kTokens),
          .block = kLoraThreads,
          .shared_bytes = sizeof(float) * kLoraWarps * kTokens * static_cast<size_t>(args.count) * 8 * kTiles,
          .overlap = Overlap::kWithPrevious},
         lora_down_kernel<kMembers, kTiles, kRowTiles, kRows>, args);
}

}  // namespace

// Reads x once: 2 T K bytes, and A once a block (16 or 32 tokens), from L2. Qwen3-8B, T = 4096: 34 MB for
// K = 4096, 12 us; 101 MB for K = 12288, 36 us. A mask costs about 90 instructions per 8 elements and
// member, less than the memory takes.
void lora_down(CudaStream& stream, const LoraDownArgs& args) {
  DownKernelArgs kernel_args{.x = {args.x, args.x_stride, args.tokens, args.columns},
                             .members = {},
                             .count = args.count,
                             .mask = args.mask,
                             .slot = static_cast<int>(args.slot),
                             .first_rank = 0,
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

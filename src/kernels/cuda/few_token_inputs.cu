// Operands of a token are a block's work. u = norm(x) A^T of 8 tokens and 16 ranks is that of one block for
// each part of the columns; the last of them that comes adds the parts up.
#include "kernels/cuda/arrivals.h"
#include "kernels/cuda/few_token_adapters.cuh"
#include "kernels/cuda/few_token_inputs.h"
#include "kernels/cuda/few_token_operands.cuh"

namespace onggi::cuda {
namespace {

// The more threads of a token, the sooner; beside fewer, of 40 registers, fit two blocks of two groups of
// few_token_wgmma.cuh.
constexpr int kManyThreads = 512, kFewThreads = 256;
constexpr int threads_of_multiprocessor(bool has_adapters) { return has_adapters ? 1024 : 1536; }
constexpr int kTokens = 8;        // as many as mma's D has columns
constexpr int kWarpColumns = 32;  // eight of each lane of a row
constexpr int kTileSums = kRanksTogether * kTokens;

constexpr int chunk_columns(int threads) { return kWarpColumns * threads / kWarp; }

struct InputsKernelParams {
  FewTokenParams p;
  int image_rows, rank_tiles, chunks;
  float* partials;    // [8 tokens][chunk]: [tile][16 ranks][8], then squares of x [8]
  unsigned* arrived;  // of the blocks of each 8 tokens; 0 before and after
};
constexpr int partial_floats(int rank_tiles) { return rank_tiles * kTileSums + kTokens; }

// 16 ranks of a member.
struct RankTile {
  int member, first;
};
__device__ __forceinline__ RankTile rank_tile(const FewTokenParams& p, int tile) {
  int member = 0;
  while (tile >= ceil_div(p.members[member].rank, kRanksTogether))
    tile -= ceil_div(p.members[member++].rank, kRanksTogether);
  return {member, kRanksTogether * tile};
}

// Eight columns of a row of A from `column` on; zeros beyond its end.
__device__ __forceinline__ void load_a(const FewTokenMember& member, int columns, int row, int column,
                                       float (&values)[8]) {
#pragma unroll
  for (float& value : values) value = 0;
  if (row >= member.rank) return;
  const float* a = member.lora_a + static_cast<int64_t>(row) * columns + column;
  if (column + 8 <= columns && reinterpret_cast<uintptr_t>(a) % 16 == 0) return load_8(a, values);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (column + i < columns) values[i] = a[i];
}

// Adds the chunks up, in their order.
template <int kThreads>
__device__ __forceinline__ void finish_u(const InputsKernelParams& in, int eight) {
  const FewTokenParams& p = in.p;
  const int stride = partial_floats(in.rank_tiles), first_token = kTokens * eight;
  const int tokens = min(kTokens, p.tokens - first_token);
  const float* partials = in.partials + static_cast<int64_t>(eight) * in.chunks * stride;
  for (int i = threadIdx.x; i < in.rank_tiles * kRanksTogether * tokens; i += kThreads) {
    const int token = i % tokens, rank = i / tokens;
    const float* dots = partials + kTokens * rank + token;
    const float* squares = partials + in.rank_tiles * kTileSums + token;
    float dot = 0, square = 0;
#pragma unroll 8
    for (int chunk = 0; chunk < in.chunks; ++chunk) {
      dot += dots[chunk * stride];
      square += squares[chunk * stride];
    }
    if (p.norm != nullptr) dot *= rsqrtf(square / static_cast<float>(p.columns) + p.epsilon);
    const RankTile tile = rank_tile(p, rank / kRanksTogether);
    const FewTokenMember& member = p.members[tile.member];
    const int own = tile.first + rank % kRanksTogether;
    if (own < member.rank)
      const_cast<float*>(member.lora_u)[static_cast<int64_t>(first_token + token) * member.rank + own] = dot;
  }
}

// A of Qwen3-8B's q, k and v, rank 16: 0.8 MB, read before the kernel before has ended.
template <int kThreads>
__device__ __forceinline__ void make_u(const InputsKernelParams& in, int block) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ float sums[kWarps][kTileSums], squares[kWarps][kTokens];
  __shared__ bool is_last;
  const FewTokenParams& p = in.p;
  const int index = block % in.rank_tiles, chunk = block / in.rank_tiles % in.chunks;
  const int eight = block / in.rank_tiles / in.chunks;
  const int group = lane_index() / 4, pair = lane_index() % 4;
  const int column = chunk * chunk_columns(kThreads) + kWarpColumns * warp_index() + 8 * pair;
  const RankTile tile = rank_tile(p, index);
  float a[2][8], norm[8];
#pragma unroll
  for (int i = 0; i < 2; ++i)
    load_a(p.members[tile.member], p.columns, tile.first + group + 8 * i, column, a[i]);
  if (p.norm != nullptr) load_norm_8(p, column, norm);
  grid_dependency_wait();
  float x[8];
  load_input_8(p, min(kTokens * eight + group, p.tokens - 1), column, x);
  float square = warp_sum<4>(squares_of(x));
  if (pair == 0) squares[warp_index()][group] = square;
  float d[4] = {};
  uint32_t rows[2][8], columns[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    columns[i] = round_to_tf32(x[i]);
#pragma unroll
    for (int row = 0; row < 2; ++row)
      rows[row][i] = round_to_tf32(p.norm != nullptr ? a[row][i] * norm[i] : a[row][i]);
  }
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const uint32_t of_ranks[4] = {rows[0][i], rows[1][i], rows[0][i + 1], rows[1][i + 1]};
    mma_m16n8k8_tf32(d, of_ranks, columns[i], columns[i + 1]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[warp_index()][kTokens * (group + 8 * (i / 2)) + 2 * pair + i % 2] = d[i];
  __syncthreads();
  const int stride = partial_floats(in.rank_tiles);
  float* partials = in.partials + (static_cast<int64_t>(eight) * in.chunks + chunk) * stride;
  for (int i = threadIdx.x; i < kTileSums; i += kThreads) {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp][i];
    partials[index * kTileSums + i] = sum;
  }
  if (index == 0 && threadIdx.x < kTokens) {
    square = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) square += squares[warp][threadIdx.x];
    partials[in.rank_tiles * kTileSums + static_cast<int>(threadIdx.x)] = square;
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned blocks = static_cast<unsigned>(in.rank_tiles * in.chunks);
    is_last = atomicAdd(in.arrived + eight, 1u) == blocks - 1;
    if (is_last) in.arrived[eight] = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  finish_u<kThreads>(in, eight);
}

// 64 tokens of Qwen3-8B: 1 MB read and 0.5 MB of operands written, all of it in L2; 3 us.
template <int kThreads, bool kHasAdapters>
__global__ void __launch_bounds__(kThreads, threads_of_multiprocessor(kHasAdapters) / kThreads)
    inputs_kernel(const __grid_constant__ InputsKernelParams in) {
  grid_dependency_launch();
  const int block = static_cast<int>(blockIdx.x);
  if constexpr (kHasAdapters)
    if (block >= in.p.tokens) return make_u<kThreads>(in, block - in.p.tokens);
  TokenOperands<kThreads> operands(in.p, block);
  grid_dependency_wait();
  operands.make(in.image_rows);
}

// Of the blocks of each eight tokens.
constexpr int kCounters = 64;
unsigned* counters(CudaStream& stream) { return arrivals<InputsKernelParams, kCounters>(stream); }

int rank_tiles_of(const FewTokenParams& p) {
  int tiles = 0;
  for (int i = 0; i < p.member_count; ++i) tiles += ceil_div(p.members[i].rank, kRanksTogether);
  return tiles;
}

template <int kThreads>
void launch_inputs(CudaStream& stream, InputsKernelParams& in, Overlap overlap) {
  in.chunks = ceil_div(in.p.columns, chunk_columns(kThreads));
  const int eights = ceil_div(in.p.tokens, kTokens);
  ONGGI_CHECK(eights < kCounters);
  const int blocks = in.p.tokens + in.rank_tiles * in.chunks * eights;
  launch(stream, "few_token_inputs",
         {.grid = static_cast<unsigned>(blocks), .block = kThreads, .overlap = overlap},
         in.rank_tiles > 0 ? inputs_kernel<kThreads, true> : inputs_kernel<kThreads, false>, in);
}

}  // namespace

size_t few_token_inputs_scratch(const FewTokenParams& p) {
  const int tiles = rank_tiles_of(p);
  if (tiles == 0) return 0;
  const int chunks = ceil_div(p.columns, chunk_columns(kFewThreads));
  return static_cast<size_t>(ceil_div(p.tokens, kTokens)) * static_cast<size_t>(chunks) *
         static_cast<size_t>(partial_floats(tiles)) * sizeof(float);
}

void launch_few_token_inputs(CudaStream& stream, const FewTokenParams& p, int image_rows, void* scratch,
                             Overlap overlap) {
  InputsKernelParams in{.p = p,
                        .image_rows = image_rows,
                        .rank_tiles = rank_tiles_of(p),
                        .chunks = 0,
                        .partials = static_cast<float*>(scratch),
                        .arrived = counters(stream)};
  if (image_rows > 0) return launch_inputs<kFewThreads>(stream, in, overlap);
  launch_inputs<kManyThreads>(stream, in, overlap);
}

}  // namespace onggi::cuda

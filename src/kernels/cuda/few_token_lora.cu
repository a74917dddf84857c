// u_i = norm(x) A_i^T of few tokens, in fp32.
#include "kernels/cuda/arrivals.h"
#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/few_token_lora.h"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kRows = 4;                    // of A, of a block
constexpr int kTokens = 8;                  // of a block
constexpr int kChunk = 4 * kWarp * kWarps;  // columns of a block: four of each lane

struct LoraInputParams {
  FewTokenLoraArgs args;
  int first_rows[kMaxLinearGroup + 1];  // groups of kRows rows before each member's
  int chunks;                           // of K
  float* partials;                      // [chunk][8 tokens][rows of all groups + 1]: dots, then squares of x
  unsigned* arrived;                    // of the blocks of each 8 tokens; 0 before and after
  unsigned* input_is_there;
};

// Adds the chunks up, in their order, for the 8 tokens of the block that came last.
__device__ __forceinline__ void finish(const LoraInputParams& p, int first_token) {
  const FewTokenLoraArgs& args = p.args;
  const int rows = kRows * p.first_rows[kMaxLinearGroup], stride = rows + 1;
  const float* partials = p.partials + static_cast<int64_t>(blockIdx.z) * p.chunks * kTokens * stride;
  const int tokens = min(kTokens, args.tokens - first_token);
  for (int i = threadIdx.x; i < rows * tokens; i += kThreads) {
    const int token = i / rows, row = i % rows;
    float dot = 0, square = 0;
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      const float* of_token = partials + (chunk * kTokens + token) * stride;
      dot += of_token[row];
      square += of_token[rows];
    }
    if (args.norm != nullptr) dot *= rsqrtf(square / static_cast<float>(args.columns) + args.epsilon);
    int member = 0;
    while (row >= kRows * p.first_rows[member + 1]) ++member;
    const FewTokenLoraArgs::Member& lora = args.members[member];
    const int own = row - kRows * p.first_rows[member];
    if (own < lora.rank) lora.u[static_cast<int64_t>(first_token + token) * lora.rank + own] = dot;
  }
}

// blockIdx: group of rows, chunk of K, 8 tokens. A of Qwen3-8B's q, k and v, rank 16: 0.8 MB, read before the
// kernel before has ended.
__global__ void __launch_bounds__(kThreads) lora_input_kernel(const __grid_constant__ LoraInputParams p) {
  __shared__ float sums[kWarps][kTokens * (kRows + 1)];
  __shared__ bool is_last;
  const FewTokenLoraArgs& args = p.args;
  const int group = static_cast<int>(blockIdx.x), first_token = kTokens * static_cast<int>(blockIdx.z);
  int member = 0;
  while (group >= p.first_rows[member + 1]) ++member;
  const FewTokenLoraArgs::Member& lora = args.members[member];
  const int first_row = kRows * (group - p.first_rows[member]);
  const int column = static_cast<int>(blockIdx.y) * kChunk + 4 * static_cast<int>(threadIdx.x);
  if (args.early_readers > 0) grid_dependency_launch();
  float a[kRows][4];
#pragma unroll
  for (int r = 0; r < kRows; ++r)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool inside = first_row + r < lora.rank && column + i < args.columns;
      const int64_t at = static_cast<int64_t>(first_row + r) * args.columns + column + i;
      a[r][i] = inside ? lora.a[at] * (args.norm != nullptr ? args.norm[column + i] : 1.0f) : 0.0f;
    }
  grid_dependency_wait();
  // What follows may read x: what wrote it is done.
  if (args.early_readers == 0) {
    grid_dependency_launch();
  } else if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0 && threadIdx.x == 0) {
    store_release(p.input_is_there, static_cast<unsigned>(args.early_readers));
  }
  const int tokens = min(kTokens, args.tokens - first_token);
#pragma unroll 2
  for (int t = 0; t < tokens; ++t) {
    float dots[kRows] = {}, square = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float x =
          column + i < args.columns
              ? load_activation(args.x, args.x_is_bf16, (first_token + t) * args.x_stride + column + i)
              : 0.0f;
      square = fmaf(x, x, square);
#pragma unroll
      for (int r = 0; r < kRows; ++r) dots[r] = fmaf(a[r][i], x, dots[r]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) dots[r] = warp_sum(dots[r]);
    square = warp_sum(square);
    if (lane_index() == 0) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[warp_index()][t * (kRows + 1) + r] = dots[r];
      sums[warp_index()][t * (kRows + 1) + kRows] = square;
    }
  }
  __syncthreads();
  const int stride = kRows * p.first_rows[kMaxLinearGroup] + 1;
  for (int i = threadIdx.x; i < tokens * (kRows + 1); i += kThreads) {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) sum += sums[warp][i];
    const int token = i / (kRows + 1), r = i % (kRows + 1);
    const int64_t chunk = static_cast<int64_t>(blockIdx.z) * p.chunks + blockIdx.y;
    // The squares of all groups are the same.
    if (r < kRows || group == 0)
      p.partials[(chunk * kTokens + token) * stride + (r < kRows ? kRows * group + r : stride - 1)] = sum;
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const unsigned blocks = gridDim.x * gridDim.y;
    is_last = atomicAdd(p.arrived + blockIdx.z, 1u) == blocks - 1;
    if (is_last) p.arrived[blockIdx.z] = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  finish(p, first_token);
}

// Of the blocks of each eight tokens; the last one is input_is_there's.
constexpr int kCounters = 64;
unsigned* counters(CudaStream& stream) { return arrivals<LoraInputParams, kCounters>(stream); }

int rank_groups(const FewTokenLoraArgs& args) {
  int groups = 0;
  for (int i = 0; i < args.count; ++i) groups += (args.members[i].rank + kRows - 1) / kRows;
  return groups;
}

}  // namespace

size_t few_token_lora_scratch(const FewTokenLoraArgs& args) {
  const auto chunks = static_cast<size_t>((args.columns + kChunk - 1) / kChunk);
  const auto eights = static_cast<size_t>((args.tokens + kTokens - 1) / kTokens);
  return eights * chunks * kTokens * static_cast<size_t>(kRows * rank_groups(args) + 1) * sizeof(float);
}

unsigned* input_is_there(CudaStream& stream) { return counters(stream) + kCounters - 1; }

void few_token_lora_input(CudaStream& stream, const FewTokenLoraArgs& args, void* scratch, Overlap overlap) {
  LoraInputParams params{args,
                         {},
                         (args.columns + kChunk - 1) / kChunk,
                         static_cast<float*>(scratch),
                         counters(stream),
                         input_is_there(stream)};
  int groups = 0;
  for (int i = 0; i < kMaxLinearGroup; ++i) {
    params.first_rows[i] = groups;
    if (i < args.count) groups += (args.members[i].rank + kRows - 1) / kRows;
  }
  params.first_rows[kMaxLinearGroup] = groups;
  const auto eights = static_cast<unsigned>((args.tokens + kTokens - 1) / kTokens);
  ONGGI_CHECK(eights < kCounters);
  launch(stream, "few_token_lora_input",
         {.grid = dim3(static_cast<unsigned>(groups), static_cast<unsigned>(params.chunks), eights),
          .block = kThreads,
          .overlap = overlap},
         lora_input_kernel, params);
}

}  // namespace onggi::cuda

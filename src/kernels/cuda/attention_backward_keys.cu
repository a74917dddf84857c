// dk and dv: blocks have tiles of keys and go through the queries that see them.
#include <cstdint>

#include "kernels/cuda/attention_backward.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kKeys = kBackwardRows;  // of a block: 16 per warp
constexpr int kQueries = 32;          // of a step
constexpr int kStages = 2;

template <int kHeadDim>
struct Stage {
  BFloat16 queries[kQueries * kHeadDim];
  BFloat16 gradients[kQueries * kHeadDim];  // dout
  float2 statistics[kQueries];
};
template <int kHeadDim>
struct Shared {
  BFloat16 keys[kKeys * kHeadDim];
  BFloat16 values[kKeys * kHeadDim];
  Stage<kHeadDim> stages[kStages];
};

// Step i of a block: the queries first + 32 (i % per_head) .. + 31 of head first_head + i / per_head.
struct Steps {
  int first, per_head, first_head, count;
};
struct Step {
  int query, head;
};
__device__ __forceinline__ Step step_of(const Steps& steps, int i) {
  return {steps.first + i % steps.per_head * kQueries, steps.first_head + i / steps.per_head};
}

template <int kHeadDim>
__device__ __forceinline__ void copy_stage(Stage<kHeadDim>& stage, const Backward& p, Step step) {
  const int64_t stride = static_cast<int64_t>(p.query_heads) * kHeadDim;
  copy_tile<kHeadDim, kQueries, kThreads>(stage.queries, p.q + step.head * kHeadDim, stride, step.query,
                                          p.tokens);
  copy_tile<kHeadDim, kQueries, kThreads>(stage.gradients, p.dout + step.head * kHeadDim, stride, step.query,
                                          p.tokens);
  constexpr int kPerCopy = 16 / sizeof(float2);
  if (threadIdx.x < kQueries / kPerCopy) {
    const int query = step.query + static_cast<int>(threadIdx.x) * kPerCopy;
    const bool inside = query < p.statistics_stride;
    const float2* from = p.statistics + static_cast<int64_t>(step.head) * p.statistics_stride;
    cp_async_16(stage.statistics + threadIdx.x * kPerCopy, from + (inside ? query : 0), inside ? 16 : 0);
  }
}

// Which queries the 16 keys of a warp have to do with.
struct WarpKeys {
  int first;     // key
  int end[2];    // one past the last query of keys g and g + 8 of a lane
  int shortest;  // end of the first key
  int longest;   // end of the last key
};

// The weights [16 keys, 32 queries] of a step and the gradients of the scores.
template <int kHeadDim>
__device__ __forceinline__ void compute_weights(float (&weights)[kQueries / 8][4],
                                                float (&gradients)[kQueries / 8][4],
                                                const Shared<kHeadDim>& shared, const Stage<kHeadDim>& stage,
                                                float scale_log2, const LaneOffsets<kHeadDim>& lane) {
  const int row = warp_index() * 16;
#pragma unroll
  for (int block = 0; block < kHeadDim / 16; ++block) {
    uint32_t a[4];
    load_rows(a, shared.keys, row, block, lane);
    multiply_by_rows(weights, a, stage.queries, 0, block, lane);
  }
#pragma unroll
  for (int block = 0; block < kHeadDim / 16; ++block) {
    uint32_t a[4];
    load_rows(a, shared.values, row, block, lane);
    multiply_by_rows(gradients, a, stage.gradients, 0, block, lane);
  }
#pragma unroll
  for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 statistics = stage.statistics[8 * n + 2 * (lane_index() % 4) + i];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const WeightAndGradient result =
            backward_of_score(weights[n][2 * h + i], gradients[n][2 * h + i], scale_log2, statistics);
        weights[n][2 * h + i] = result.weight;
        gradients[n][2 * h + i] = result.gradient;
      }
    }
}

// Zero where a query does not see a key.
__device__ __forceinline__ void mask_weights(float (&weights)[kQueries / 8][4],
                                             float (&gradients)[kQueries / 8][4], const WarpKeys& keys,
                                             int query) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = query + 8 * n + 2 * pair + i % 2, key = keys.first + group + i / 2 * 8;
      if (row < key || row >= keys.end[i / 2]) weights[n][i] = gradients[n][i] = 0;
    }
}

// Shared memory: 256 + 2 * 64 rows, 97 KiB at D = 128. Scores are computed as keys x queries, so that they
// are in the registers what the products that sum over queries take as A, and nothing goes through memory.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1) attention_backward_keys_kernel(Backward p) {
  Shared<kHeadDim>& shared = *dynamic_shared<Shared<kHeadDim>>();
  const LaneOffsets<kHeadDim> lane;
  const int group_heads = p.query_heads / p.kv_heads, kv_head = static_cast<int>(blockIdx.x);
  const int first = tile_of_block<TileWork::kRowsAfter>(p.order) * kKeys;
  const int end = min(first + kKeys, p.tokens);
  const int per_head = (p.end_row[end - 1] - first + kQueries - 1) / kQueries;
  const Steps steps{first, per_head, kv_head * group_heads, per_head * group_heads};
  const int64_t stride = static_cast<int64_t>(p.kv_heads) * kHeadDim;
  copy_tile<kHeadDim, kKeys, kThreads>(shared.keys, p.k + kv_head * kHeadDim, stride, first, end);
  copy_tile<kHeadDim, kKeys, kThreads>(shared.values, p.v + kv_head * kHeadDim, stride, first, end);
  copy_stage(shared.stages[0], p, step_of(steps, 0));
  cp_async_commit();

  WarpKeys keys{.first = first + warp_index() * 16, .end = {}, .shortest = 0, .longest = 0};
  if (keys.first < p.tokens) {  // else no query is before 0
    const int last = p.tokens - 1, key = keys.first + lane_index() / 4;
    keys.end[0] = key <= last ? p.end_row[key] : 0;
    keys.end[1] = key + 8 <= last ? p.end_row[key + 8] : 0;
    keys.shortest = keys.first + 15 <= last ? p.end_row[keys.first] : 0;
    keys.longest = p.end_row[min(keys.first + 15, last)];
  }
  float dk[kHeadDim / 8][4] = {}, dv[kHeadDim / 8][4] = {};
  for (int i = 0; i < steps.count; ++i) {
    cp_async_wait<0>();
    __syncthreads();  // this step's data are there, and everyone is done with the step before
    if (i + 1 < steps.count) copy_stage(shared.stages[(i + 1) % kStages], p, step_of(steps, i + 1));
    cp_async_commit();
    const Stage<kHeadDim>& stage = shared.stages[i % kStages];
    const int query = step_of(steps, i).query;
    if (query + kQueries <= keys.first || query >= keys.longest) continue;
    float weights[kQueries / 8][4] = {}, gradients[kQueries / 8][4] = {};
    compute_weights(weights, gradients, shared, stage, p.scale * kLog2E, lane);
    if (query < keys.first + 15 || query + kQueries > keys.shortest)
      mask_weights(weights, gradients, keys, query);
#pragma unroll
    for (int block = 0; block < kQueries / 16; ++block) {
      uint32_t a[4];
      as_fragment(a, weights, block);
      multiply_by_columns(dv, a, stage.gradients, 16 * block, lane);
      as_fragment(a, gradients, block);
      multiply_by_columns(dk, a, stage.queries, 16 * block, lane);
    }
  }
  BFloat16* staging = shared.values + warp_index() * 16 * kHeadDim;  // the warp's own values
  const float one[2] = {1, 1}, scale[2] = {p.scale, p.scale};
  store_rows<kHeadDim>(dv, one, staging, p.dv + kv_head * kHeadDim, stride, keys.first, p.tokens);
  store_rows<kHeadDim>(dk, scale, staging, p.dk + kv_head * kHeadDim, stride, keys.first, p.tokens);
}

}  // namespace

// Four products: 8 D operations per query head and pair of a query and a key that it sees. Qwen3-8B,
// T = 16384 in segments of 2048: 550 GFLOP a layer, 1.8 ms at 300 TFLOP/s.
template <int kHeadDim>
void launch_backward_keys(CudaStream& stream, const Backward& p) {
  launch(stream, "attention_backward_keys",
         {.grid = dim3(static_cast<unsigned>(p.kv_heads), blocks_for(p.tokens, kKeys)),
          .block = kThreads,
          .shared_bytes = sizeof(Shared<kHeadDim>)},
         attention_backward_keys_kernel<kHeadDim>, p);
}
void attention_backward_keys(CudaStream& stream, const Backward& p, int64_t head_dim) {
  if (head_dim == 128 && is_hopper(stream)) return attention_backward_keys_sm90(stream, p);
  head_dim == 128 ? launch_backward_keys<128>(stream, p) : launch_backward_keys<64>(stream, p);
}

}  // namespace onggi::cuda

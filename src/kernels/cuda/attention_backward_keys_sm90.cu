// dk and dv for Hopper: as attention_backward_keys.cu computes them, by warpgroups.
#include <cstdint>

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_hopper.cuh"

namespace onggi::cuda {
namespace hopper {
namespace {

constexpr int kKeys = kBackwardRows;  // of a block: 64 per computing warpgroup, 16 per warp
constexpr int kQueries = 64;          // of a step
constexpr int kStages = 3;

struct BackwardKeys {
  TensorMap q, dout, k, v;
  Backward p;
};

struct Stage {
  Boxes<kQueries> queries;
  Boxes<kQueries> gradients;  // dout
};
// 161.5 KiB and the barriers.
struct Shared {
  Boxes<kKeys> keys, values;
  Stage stages[kStages];
  float2 statistics[kStages][kQueries];
  uint64_t keys_full, full[kStages], empty[kStages];
};

// The steps of a block: all queries from `first` to `end` for each head of the group.
struct Steps {
  int first, end, first_head, end_head;
};

__device__ __forceinline__ void copy_steps(const BackwardKeys& args, Shared& shared, const Steps& steps,
                                           int kv_head) {
  const Backward& p = args.p;
  mbarrier_arrive_expecting(&shared.keys_full, 2 * Boxes<kKeys>::kBytes);
  shared.keys.copy(args.k, kv_head, steps.first, &shared.keys_full);
  shared.values.copy(args.v, kv_head, steps.first, &shared.keys_full);
  constexpr int kStatisticsBytes = kQueries * static_cast<int>(sizeof(float2));
  Ring<kStages> ring;
  for (int head = steps.first_head; head < steps.end_head; ++head)
    for (int query = steps.first; query < steps.end; query += kQueries, ring.advance()) {
      const int stage = ring.stage;
      uint64_t* full = &shared.full[stage];
      mbarrier_wait(&shared.empty[stage], ring.parity ^ 1);
      mbarrier_arrive_expecting(full, 2 * Boxes<kQueries>::kBytes + kStatisticsBytes);
      shared.stages[stage].queries.copy(args.q, head, query, full);
      shared.stages[stage].gradients.copy(args.dout, head, query, full);
      copy_bytes(shared.statistics[stage],
                 p.statistics + static_cast<int64_t>(head) * p.statistics_stride + query, kStatisticsBytes,
                 full);
    }
}

// Which queries see the keys of a warp, and of its warpgroup.
struct WarpKeys {
  int first;     // key
  int end[2];    // one past the last query of keys g and g + 8 of a lane
  int shortest;  // end of the first key
  int group_first, group_end;
};
__device__ __forceinline__ WarpKeys keys_of_warp(const Backward& p, int first, int warp) {
  WarpKeys keys;
  const int last = p.tokens - 1, group = lane_index() / 4;
  keys.first = first + warp * 16;
  keys.group_first = first + warp / 4 * 64;
  // Keys beyond the last token are seen by none.
  const auto end_of = [&](int key) { return key <= last ? p.end_row[key] : 0; };
  keys.end[0] = end_of(keys.first + group);
  keys.end[1] = end_of(keys.first + group + 8);
  keys.shortest = keys.first + 15 <= last ? p.end_row[keys.first] : 0;
  keys.group_end = keys.group_first <= last ? p.end_row[min(keys.group_first + 63, last)] : 0;
  return keys;
}

// Weights of the scores [64 keys, 64 queries], zero where a query does not see a key.
__device__ __forceinline__ void weights_of_scores(float (&scores)[kQueries / 8][4], const float2* statistics,
                                                  const WarpKeys& keys, int query, float scale_log2) {
  const int pair = lane_index() % 4, key = keys.first + lane_index() / 4;
#pragma unroll
  for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float log_sum_exp = statistics[8 * n + 2 * pair + i].x;
#pragma unroll
      for (int h = 0; h < 2; ++h)
        scores[n][2 * h + i] = exp2_approx(fmaf(scores[n][2 * h + i], scale_log2, -log_sum_exp));
    }
  if (query >= keys.first + 15 && query + kQueries <= keys.shortest) return;
#pragma unroll
  for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = query + 8 * n + 2 * pair + i % 2;
      if (row < key + i / 2 * 8 || row >= keys.end[i / 2]) scores[n][i] = 0;
    }
}

__device__ __forceinline__ void compute_steps(const Backward& p, Shared& shared, const Steps& steps,
                                              int kv_head) {
  const int warp = warp_index() - kGroup / kWarp;  // of the computing ones
  const int group_row = warp / 4 * 64;             // the warpgroup's rows in the tile
  const float scale_log2 = p.scale * kLog2E;
  const WarpKeys keys = keys_of_warp(p, steps.first, warp);
  float dk[kHeadDim / 8][4] = {}, dv[kHeadDim / 8][4] = {};
  Ring<kStages> ring;
  mbarrier_wait(&shared.keys_full, 0);
  for (int head = steps.first_head; head < steps.end_head; ++head)
    for (int query = steps.first; query < steps.end; query += kQueries, ring.advance()) {
      const int stage = ring.stage;
      mbarrier_wait(&shared.full[stage], ring.parity);
      if (query + kQueries <= keys.group_first || query >= keys.group_end) {
        mbarrier_arrive(&shared.empty[stage]);
        continue;
      }
      const Stage& tiles = shared.stages[stage];
      float scores[kQueries / 8][4], gradients[kQueries / 8][4];
      wgmma_fence();
      multiply_rows(scores, shared.keys, group_row, tiles.queries);
      wgmma_commit();
      multiply_rows(gradients, shared.values, group_row, tiles.gradients);
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_pin(scores);
      weights_of_scores(scores, shared.statistics[stage], keys, query, scale_log2);
      uint32_t weights[kQueries / 16][4];
#pragma unroll
      for (int step = 0; step < kQueries / 16; ++step) as_fragment(weights[step], scores, step);
      wgmma_pin(dv);
      wgmma_fence();
      add_product(dv, weights, tiles.gradients);
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_pin(gradients);
#pragma unroll
      for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          gradients[n][i] =
              scores[n][i] *
              (gradients[n][i] - shared.statistics[stage][8 * n + 2 * (lane_index() % 4) + i % 2].y);
      uint32_t score_gradients[kQueries / 16][4];
#pragma unroll
      for (int step = 0; step < kQueries / 16; ++step) as_fragment(score_gradients[step], gradients, step);
      wgmma_pin(dk);
      wgmma_fence();
      add_product(dk, score_gradients, tiles.queries);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_pin(dv);
      wgmma_pin(dk);
      mbarrier_arrive(&shared.empty[stage]);  // each lane for itself, as it has read the statistics
    }
  barrier_sync(1, 2 * kGroup);  // both warpgroups are done with the values, over which they now write
  BFloat16* staging = shared.values.data + warp * 16 * kHeadDim;
  const int64_t stride = static_cast<int64_t>(p.kv_heads) * kHeadDim;
  const float one[2] = {1, 1}, scale[2] = {p.scale, p.scale};
  store_rows<kHeadDim>(dv, one, staging, p.dv + kv_head * kHeadDim, stride, keys.first, p.tokens);
  store_rows<kHeadDim>(dk, scale, staging, p.dk + kv_head * kHeadDim, stride, keys.first, p.tokens);
}

__global__ void __launch_bounds__(kThreads, 1)
    attention_backward_keys_sm90_kernel(const __grid_constant__ BackwardKeys args) {
  Shared& shared = *dynamic_shared<Shared>();
  const Backward& p = args.p;
  const int group_heads = p.query_heads / p.kv_heads, kv_head = static_cast<int>(blockIdx.x);
  const int first = tile_of_block<TileWork::kRowsAfter>(p.order) * kKeys;
  const Steps steps{first, p.end_row[min(first + kKeys, p.tokens) - 1], kv_head * group_heads,
                    (kv_head + 1) * group_heads};
  if (threadIdx.x == 0) {
    mbarrier_init(&shared.keys_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(&shared.full[stage], 1);
      mbarrier_init(&shared.empty[stage], kWarp * kComputingWarps);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kGroup) {
    give_registers<kCopyingRegisters>();
    if (threadIdx.x == 0) copy_steps(args, shared, steps, kv_head);
  } else {
    take_registers<kComputingRegisters>();
    compute_steps(p, shared, steps, kv_head);
  }
}

}  // namespace
}  // namespace hopper

// The operations of attention_backward_keys.cu: 1.0 ms at 550 TFLOP/s.
void attention_backward_keys_sm90(CudaStream& stream, const Backward& p) {
  using namespace hopper;
  const auto map = [&](const BFloat16* data, int heads, int rows) {
    return make_tensor_map(data,
                           {.rows = p.tokens, .heads = heads, .width = hopper::kHeadDim, .box_rows = rows});
  };
  const BackwardKeys args{.q = map(p.q, p.query_heads, kQueries),
                          .dout = map(p.dout, p.query_heads, kQueries),
                          .k = map(p.k, p.kv_heads, kKeys),
                          .v = map(p.v, p.kv_heads, kKeys),
                          .p = p};
  launch(stream, "attention_backward_keys_sm90",
         {.grid = dim3(static_cast<unsigned>(p.kv_heads), blocks_for(p.tokens, kKeys)),
          .block = hopper::kThreads,
          .shared_bytes = sizeof(Shared)},
         attention_backward_keys_sm90_kernel, args);
}

}  // namespace onggi::cuda

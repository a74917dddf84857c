// dq for Hopper: as attention_backward_queries.cu computes it, by warpgroups.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/attention_hopper.cuh"

namespace onggi::cuda {
namespace hopper {
namespace {

constexpr int kQueries = kBackwardRows;  // of an item: 64 per computing warpgroup, 16 per warp
constexpr int kKeys = 80;                // of a step: 128 would take more registers than there are
constexpr int kStages = 2;

struct BackwardQueries {
  TensorMap q, dout, k, v;
  Backward p;
  int tiles;
};

// 192 KiB and the barriers.
struct Shared {
  Boxes<kQueries> queries, gradients;  // q and dout
  Boxes<kKeys> keys[kStages], values[kStages];
  BFloat16 staging[kQueries * kHeadDim];
  uint64_t queries_full, queries_empty;
  uint64_t keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
};

__device__ __forceinline__ void copy_items(const BackwardQueries& args, Shared& shared) {
  const Backward& p = args.p;
  Ring<kStages> ring;
  Item item;
  for (int round = 0; item_of_round<TileWork::kRowsBefore>(round, args.tiles, p.query_heads, p.order, item);
       ++round) {
    const int first = item.tile * kQueries, end = min(first + kQueries, p.tokens);
    const int kv_head = item.head / (p.query_heads / p.kv_heads);
    mbarrier_wait(&shared.queries_empty, round % 2 ^ 1);
    mbarrier_arrive_expecting(&shared.queries_full, 2 * Boxes<kQueries>::kBytes);
    shared.queries.copy(args.q, item.head, first, &shared.queries_full);
    shared.gradients.copy(args.dout, item.head, first, &shared.queries_full);
    for (int key = p.first_row[first]; key < end; key += kKeys, ring.advance()) {
      const int stage = ring.stage;
      mbarrier_wait(&shared.keys_empty[stage], ring.parity ^ 1);
      mbarrier_arrive_expecting(&shared.keys_full[stage], Boxes<kKeys>::kBytes);
      shared.keys[stage].copy(args.k, kv_head, key, &shared.keys_full[stage]);
      mbarrier_wait(&shared.values_empty[stage], ring.parity ^ 1);
      mbarrier_arrive_expecting(&shared.values_full[stage], Boxes<kKeys>::kBytes);
      shared.values[stage].copy(args.v, kv_head, key, &shared.values_full[stage]);
    }
  }
}

// What a lane knows of its rows g and g + 8.
struct LaneQueries {
  float2 statistics[2];
  int first_key_of_last;  // of the warp
};
__device__ __forceinline__ LaneQueries queries_of_lane(const Backward& p, int row, int head) {
  LaneQueries queries;
  const int last = p.tokens - 1;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = min(row + lane_index() / 4 + 8 * h, last);
    queries.statistics[h] = p.statistics[static_cast<int64_t>(head) * p.statistics_stride + query];
  }
  queries.first_key_of_last = p.first_row[min(row + 15, last)];
  return queries;
}

__device__ __forceinline__ void compute_items(const BackwardQueries& args, Shared& shared) {
  const Backward& p = args.p;
  const int warp = warp_index() - kGroup / kWarp;  // of the computing ones
  const int group_row = warp / 4 * 64;             // the warpgroup's rows in the tile
  const float scale_log2 = p.scale * kLog2E;
  Ring<kStages> ring;
  Item item;
  for (int round = 0; item_of_round<TileWork::kRowsBefore>(round, args.tiles, p.query_heads, p.order, item);
       ++round) {
    const int first = item.tile * kQueries, end = min(first + kQueries, p.tokens);
    const int row = first + warp * 16;
    const LaneQueries queries = queries_of_lane(p, row, item.head);
    float dq[kHeadDim / 8][4] = {};
    mbarrier_wait(&shared.queries_full, round % 2);
    for (int key = p.first_row[first]; key < end; key += kKeys, ring.advance()) {
      const int stage = ring.stage;
      float scores[kKeys / 8][4], gradients[kKeys / 8][4];
      mbarrier_wait(&shared.keys_full[stage], ring.parity);
      wgmma_fence();
      multiply_rows(scores, shared.queries, group_row, shared.keys[stage]);
      wgmma_commit();
      mbarrier_wait(&shared.values_full[stage], ring.parity);
      wgmma_fence();
      multiply_rows(gradients, shared.gradients, group_row, shared.values[stage]);
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_pin(scores);
      if (key + kKeys - 1 > row || key < queries.first_key_of_last)
        mask_scores(scores, p.first_row, p.tokens, row, key);
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          scores[n][i] = exp2_approx(fmaf(scores[n][i], scale_log2, -queries.statistics[i / 2].x));
      wgmma_wait<0>();
      wgmma_pin(gradients);
      release(&shared.values_empty[stage]);
      if (key + kKeys >= end) release(&shared.queries_empty);
      uint32_t score_gradients[kKeys / 16][4];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[n][i] *= gradients[n][i] - queries.statistics[i / 2].y;
#pragma unroll
      for (int step = 0; step < kKeys / 16; ++step) as_fragment(score_gradients[step], scores, step);
      wgmma_pin(dq);
      wgmma_fence();
      add_product(dq, score_gradients, shared.keys[stage]);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_pin(dq);
      release(&shared.keys_empty[stage]);
    }
    const float scale[2] = {p.scale, p.scale};
    store_rows<kHeadDim>(dq, scale, shared.staging + warp * 16 * kHeadDim, p.dq + item.head * kHeadDim,
                         static_cast<int64_t>(p.query_heads) * kHeadDim, row, p.tokens);
  }
}

// One block on each multiprocessor, which goes through items of 128 queries of one head.
__global__ void __launch_bounds__(kThreads, 1)
    attention_backward_queries_sm90_kernel(const __grid_constant__ BackwardQueries args) {
  Shared& shared = *dynamic_shared<Shared>();
  if (threadIdx.x == 0) init_barriers(shared);
  __syncthreads();
  if (threadIdx.x < kGroup) {
    give_registers<kCopyingRegisters>();
    if (threadIdx.x == 0) copy_items(args, shared);
  } else {
    take_registers<kComputingRegisters>();
    compute_items(args, shared);
  }
}

}  // namespace
}  // namespace hopper

// The operations of attention_backward_queries.cu: 0.75 ms at 550 TFLOP/s.
void attention_backward_queries_sm90(CudaStream& stream, const Backward& p) {
  using namespace hopper;
  const auto map = [&](const BFloat16* data, int heads, int rows) {
    return make_tensor_map(data,
                           {.rows = p.tokens, .heads = heads, .width = hopper::kHeadDim, .box_rows = rows});
  };
  const int tiles = static_cast<int>(blocks_for(p.tokens, kQueries));
  const BackwardQueries args{.q = map(p.q, p.query_heads, kQueries),
                             .dout = map(p.dout, p.query_heads, kQueries),
                             .k = map(p.k, p.kv_heads, kKeys),
                             .v = map(p.v, p.kv_heads, kKeys),
                             .p = p,
                             .tiles = tiles};
  const int64_t items = int64_t{tiles} * p.query_heads;
  launch(stream, "attention_backward_queries_sm90",
         {.grid = static_cast<unsigned>(std::min<int64_t>(items, stream.multiprocessors())),
          .block = hopper::kThreads,
          .shared_bytes = sizeof(Shared)},
         attention_backward_queries_sm90_kernel, args);
}

}  // namespace onggi::cuda

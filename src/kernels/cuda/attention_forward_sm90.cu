// Attention's forward pass for Hopper: as attention_forward.cu does it, by warpgroups.
#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention_hopper.cuh"

namespace onggi::cuda {
namespace hopper {
namespace {

constexpr int kQueries = 128;  // of an item: 64 per computing warpgroup, 16 per warp
constexpr int kKeys = 128;     // of a step
constexpr int kStages = 2;

struct Forward {
  TensorMap q, k, v;
  const int32_t* first_row;
  const int32_t* order;
  BFloat16* out;
  float* log_sum_exp;
  int64_t out_stride;
  int tokens, query_heads, kv_heads, tiles;
  float scale_log2;
};

// 192 KiB and the barriers.
struct Shared {
  Boxes<kQueries> queries;
  Boxes<kKeys> keys[kStages], values[kStages];
  BFloat16 staging[kQueries * kHeadDim];
  uint64_t queries_full, queries_empty;
  uint64_t keys_full[kStages], keys_empty[kStages], values_full[kStages], values_empty[kStages];
};

__device__ __forceinline__ void copy_items(const Forward& p, Shared& shared) {
  Ring<kStages> ring;
  Item item;
  for (int round = 0; item_of_round<TileWork::kRowsBefore>(round, p.tiles, p.query_heads, p.order, item);
       ++round) {
    const int first = item.tile * kQueries, end = min(first + kQueries, p.tokens);
    const int kv_head = item.head / (p.query_heads / p.kv_heads);
    mbarrier_wait(&shared.queries_empty, round % 2 ^ 1);
    mbarrier_arrive_expecting(&shared.queries_full, Boxes<kQueries>::kBytes);
    shared.queries.copy(p.q, item.head, first, &shared.queries_full);
    for (int key = p.first_row[first]; key < end; key += kKeys, ring.advance()) {
      const int stage = ring.stage;
      mbarrier_wait(&shared.keys_empty[stage], ring.parity ^ 1);
      mbarrier_arrive_expecting(&shared.keys_full[stage], Boxes<kKeys>::kBytes);
      shared.keys[stage].copy(p.k, kv_head, key, &shared.keys_full[stage]);
      mbarrier_wait(&shared.values_empty[stage], ring.parity ^ 1);
      mbarrier_arrive_expecting(&shared.values_full[stage], Boxes<kKeys>::kBytes);
      shared.values[stage].copy(p.v, kv_head, key, &shared.values_full[stage]);
    }
  }
}

__device__ __forceinline__ void compute_items(const Forward& p, Shared& shared) {
  const int warp = warp_index() - kGroup / kWarp;  // of the computing ones
  const int group_row = warp / 4 * 64;             // the warpgroup's rows in the tile
  Ring<kStages> ring;
  Item item;
  for (int round = 0; item_of_round<TileWork::kRowsBefore>(round, p.tiles, p.query_heads, p.order, item);
       ++round) {
    const int first = item.tile * kQueries, end = min(first + kQueries, p.tokens);
    const int row = first + warp * 16, last = p.tokens - 1;
    const int first_key = p.first_row[first], last_first_key = p.first_row[min(row + 15, last)];
    float out[kHeadDim / 8][4] = {};
    RowSums rows;
    int done_stage = -1;  // whose values the product under way reads
    mbarrier_wait(&shared.queries_full, round % 2);
    for (int key = first_key; key < end; key += kKeys, ring.advance()) {
      const int stage = ring.stage;
      float scores[kKeys / 8][4];
      mbarrier_wait(&shared.keys_full[stage], ring.parity);
      wgmma_fence();
      multiply_rows(scores, shared.queries, group_row, shared.keys[stage]);
      wgmma_commit();
      wgmma_wait<0>();  // and for the product with the values before
      wgmma_pin(scores);
      wgmma_pin(out);
      release(&shared.keys_empty[stage]);
      if (done_stage >= 0) release(&shared.values_empty[done_stage]);
      if (key + kKeys >= end) release(&shared.queries_empty);
      if (key + kKeys - 1 > row || key < last_first_key) mask_scores(scores, p.first_row, p.tokens, row, key);
      float factor[2];
      if (follow_scores(scores, rows, p.scale_log2, factor)) rescale(out, factor);
      exponentiate(scores, rows, p.scale_log2);
      uint32_t weights[kKeys / 16][4];
#pragma unroll
      for (int step = 0; step < kKeys / 16; ++step) as_fragment(weights[step], scores, step);
      mbarrier_wait(&shared.values_full[stage], ring.parity);
      wgmma_pin(out);
      wgmma_fence();
      add_product(out, weights, shared.values[stage]);
      wgmma_commit();
      done_stage = stage;
    }
    wgmma_wait<0>();
    wgmma_pin(out);
    release(&shared.values_empty[done_stage]);
    float factor[2];
    finish_rows(rows, row, p.tokens, item.head, p.query_heads, p.log_sum_exp, factor);
    store_rows<kHeadDim>(out, factor, shared.staging + warp * 16 * kHeadDim, p.out + item.head * kHeadDim,
                         p.out_stride, row, p.tokens);
  }
}

// One block on each multiprocessor, which goes through items of 128 queries of one head. A warpgroup copies
// q, k and v ahead of the two that compute, 64 queries each; while one of them takes exponentials the other
// multiplies.
__global__ void __launch_bounds__(kThreads, 1)
    attention_forward_sm90_kernel(const __grid_constant__ Forward p) {
  Shared& shared = *dynamic_shared<Shared>();
  if (threadIdx.x == 0) init_barriers(shared);
  __syncthreads();
  if (threadIdx.x < kGroup) {
    give_registers<kCopyingRegisters>();
    if (threadIdx.x == 0) copy_items(p, shared);
  } else {
    take_registers<kComputingRegisters>();
    compute_items(p, shared);
  }
}

}  // namespace
}  // namespace hopper

// The operations and bytes of attention_forward.cu: 0.5 ms at 550 TFLOP/s.
void attention_forward_sm90(CudaStream& stream, const AttentionArgs& args, int64_t out_stride,
                            const int32_t* order) {
  using namespace hopper;
  const int tiles = static_cast<int>(blocks_for(args.tokens, kQueries));
  const auto map = [&](const ActivationView& tensor, int64_t heads, int rows) {
    return make_tensor_map(
        tensor.data, {.rows = args.tokens, .heads = heads, .width = hopper::kHeadDim, .box_rows = rows});
  };
  const Forward p{.q = map(args.q, args.query_heads, kQueries),
                  .k = map(args.k, args.kv_heads, kKeys),
                  .v = map(args.v, args.kv_heads, kKeys),
                  .first_row = args.segments.first_row,
                  .order = order,
                  .out = args.out.as<BFloat16>(),
                  .log_sum_exp = args.log_sum_exp,
                  .out_stride = out_stride,
                  .tokens = static_cast<int>(args.tokens),
                  .query_heads = static_cast<int>(args.query_heads),
                  .kv_heads = static_cast<int>(args.kv_heads),
                  .tiles = tiles,
                  .scale_log2 = args.scale * kLog2E};
  const int64_t items = int64_t{tiles} * args.query_heads;
  launch(stream, "attention_forward_sm90",
         {.grid = static_cast<unsigned>(std::min<int64_t>(items, stream.multiprocessors())),
          .block = hopper::kThreads,
          .shared_bytes = sizeof(Shared)},
         attention_forward_sm90_kernel, p);
}

}  // namespace onggi::cuda

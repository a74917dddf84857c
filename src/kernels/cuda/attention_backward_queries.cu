// dq: blocks have tiles of queries and go through the keys that they see.
#include <cstdint>

#include "kernels/cuda/attention_backward.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kQueries = kBackwardRows;  // of a block: 16 per warp
constexpr int kKeys = 64;                // of a step
constexpr int kPart = 32;                // keys whose scores a warp has in registers at once

template <int kHeadDim>
struct Stage {
  BFloat16 keys[kKeys * kHeadDim];
  BFloat16 values[kKeys * kHeadDim];
};

// A warp's queries, 16 from row `first` on.
template <int kHeadDim>
struct WarpQueries {
  uint32_t q[kHeadDim / 16][4];
  uint32_t dout[kHeadDim / 16][4];
  float2 statistics[2];  // of queries g and g + 8 of a lane
  int first_key[2];      // likewise
  int first, last;       // rows; first > last: none
  int first_key_of_first, first_key_of_last;
};

// ds [16 queries, 32 keys] of the keys from row `part` of the stage on; `key` is the number of the first.
template <int kHeadDim>
__device__ __forceinline__ void compute_gradients(float (&gradients)[kPart / 8][4],
                                                  const WarpQueries<kHeadDim>& queries,
                                                  const Stage<kHeadDim>& stage, int part, int key,
                                                  float scale_log2, const LaneOffsets<kHeadDim>& lane) {
  float scores[kPart / 8][4] = {};
#pragma unroll
  for (int block = 0; block < kHeadDim / 16; ++block)
    multiply_by_rows(scores, queries.q[block], stage.keys, part, block, lane);
#pragma unroll
  for (int block = 0; block < kHeadDim / 16; ++block)
    multiply_by_rows(gradients, queries.dout[block], stage.values, part, block, lane);
#pragma unroll
  for (int n = 0; n < kPart / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      gradients[n][i] =
          backward_of_score(scores[n][i], gradients[n][i], scale_log2, queries.statistics[i / 2]).gradient;
  if (key + kPart - 1 <= queries.first && key >= queries.first_key_of_last) return;
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int n = 0; n < kPart / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = key + 8 * n + 2 * pair + i % 2, query = queries.first + group + i / 2 * 8;
      if (column > query || column < queries.first_key[i / 2]) gradients[n][i] = 0;
    }
}

template <int kHeadDim>
__device__ __forceinline__ void load_queries(WarpQueries<kHeadDim>& queries, const Backward& p, int head,
                                             const BFloat16* q, const BFloat16* dout,
                                             const LaneOffsets<kHeadDim>& lane) {
  const int row = warp_index() * 16;
#pragma unroll
  for (int block = 0; block < kHeadDim / 16; ++block) {
    load_rows(queries.q[block], q, row, block, lane);
    load_rows(queries.dout[block], dout, row, block, lane);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int query = min(queries.first + lane_index() / 4 + 8 * h, p.tokens - 1);
    queries.statistics[h] = p.statistics[static_cast<int64_t>(head) * p.statistics_stride + query];
    queries.first_key[h] = p.first_row[query];
  }
  queries.first_key_of_first = p.first_row[min(queries.first, p.tokens - 1)];
  queries.first_key_of_last = p.first_row[min(queries.last, p.tokens - 1)];
}

// Shared memory: two stages of 128 rows, 64 KiB at D = 128, in which q and dout lie first, on their way into
// the registers.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 1) attention_backward_queries_kernel(Backward p) {
  auto* stages = dynamic_shared<Stage<kHeadDim>>();
  BFloat16* q_tile = dynamic_shared<BFloat16>();
  BFloat16* dout_tile = q_tile + kQueries * kHeadDim;
  static_assert(2 * sizeof(Stage<kHeadDim>) == 2 * kQueries * kHeadDim * sizeof(BFloat16));
  const LaneOffsets<kHeadDim> lane;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (p.query_heads / p.kv_heads);
  const int first = tile_of_block<TileWork::kRowsBefore>(p.order) * kQueries;
  const int end = min(first + kQueries, p.tokens), first_key = p.first_row[first];
  const int64_t stride = static_cast<int64_t>(p.query_heads) * kHeadDim;
  const int64_t kv_stride = static_cast<int64_t>(p.kv_heads) * kHeadDim;
  copy_tile<kHeadDim, kQueries, kThreads>(q_tile, p.q + head * kHeadDim, stride, first, end);
  copy_tile<kHeadDim, kQueries, kThreads>(dout_tile, p.dout + head * kHeadDim, stride, first, end);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  WarpQueries<kHeadDim> queries;
  queries.first = first + warp_index() * 16;
  queries.last = min(queries.first + 16, p.tokens) - 1;
  load_queries(queries, p, head, q_tile, dout_tile, lane);
  __syncthreads();  // the tiles are read, keys and values take their place

  const auto copy_stage = [&](int stage, int key) {
    copy_tile<kHeadDim, kKeys, kThreads>(stages[stage].keys, p.k + kv_head * kHeadDim, kv_stride, key, end);
    copy_tile<kHeadDim, kKeys, kThreads>(stages[stage].values, p.v + kv_head * kHeadDim, kv_stride, key, end);
    cp_async_commit();
  };
  copy_stage(0, first_key);
  float dq[kHeadDim / 8][4] = {};
  int current = 0;
  for (int key = first_key; key < end; key += kKeys, current ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // this step's data are there, and everyone is done with the step before
    if (key + kKeys < end) copy_stage(current ^ 1, key + kKeys);
#pragma unroll 1
    for (int part = 0; part < kKeys; part += kPart) {
      if (key + part > queries.last || key + part + kPart <= queries.first_key_of_first) continue;
      float gradients[kPart / 8][4] = {};
      compute_gradients(gradients, queries, stages[current], part, key + part, p.scale * kLog2E, lane);
#pragma unroll
      for (int block = 0; block < kPart / 16; ++block) {
        uint32_t a[4];
        as_fragment(a, gradients, block);
        multiply_by_columns(dq, a, stages[current].keys, part + 16 * block, lane);
      }
    }
  }
  __syncthreads();  // everyone is done with the stages
  const float scale[2] = {p.scale, p.scale};
  store_rows<kHeadDim>(dq, scale, q_tile + warp_index() * 16 * kHeadDim, p.dq + head * kHeadDim, stride,
                       queries.first, p.tokens);
}

}  // namespace

// Three products: 6 D operations per head and pair of a query and a key that it sees. Qwen3-8B, T = 16384 in
// segments of 2048: 412 GFLOP a layer, 1.4 ms at 300 TFLOP/s.
template <int kHeadDim>
void launch_backward_queries(CudaStream& stream, const Backward& p) {
  launch(stream, "attention_backward_queries",
         {.grid = dim3(static_cast<unsigned>(p.query_heads), blocks_for(p.tokens, kQueries)),
          .block = kThreads,
          .shared_bytes = 2 * sizeof(Stage<kHeadDim>)},
         attention_backward_queries_kernel<kHeadDim>, p);
}
void attention_backward_queries(CudaStream& stream, const Backward& p, int64_t head_dim) {
  if (head_dim == 128 && is_hopper(stream)) return attention_backward_queries_sm90(stream, p);
  head_dim == 128 ? launch_backward_queries<128>(stream, p) : launch_backward_queries<64>(stream, p);
}

}  // namespace onggi::cuda

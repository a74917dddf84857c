#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/cuda.h"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 128;                             // of a tile: 32 per warp
constexpr int kWarpQueries = kQueries / (kThreads / 32);  // two blocks of mma's 16 rows
constexpr int kKeys = 64;                                 // of a tile

struct Forward {
  const BFloat16* q;         // [T, Hq, D]
  const BFloat16* k;         // [T, Hkv, D]
  const BFloat16* v;         // [T, Hkv, D]
  const int32_t* first_row;  // [T]
  const int32_t* order;      // tiles of queries in the order of the blocks, or null
  BFloat16* out;             // [T, Hq, D], rows out_stride apart
  float* log_sum_exp;        // [T, Hq] or null
  int64_t out_stride;
  int tokens, query_heads, kv_heads;
  float scale;  // positive
};

constexpr float kNoShift = 1e30f;
constexpr float kSlack = 8;

// What a warp knows of its rows: query row 16 m + g + 8 h of lane 4 g + i is entry [m][h].
template <int kHeadDim>
struct WarpState {
  float out[2][kHeadDim / 8][4] = {};  // sums over the keys of 2^(score + shift) v
  float sum[2][2] = {};                // of 2^(score + shift), over this lane's columns
  // Minus a score, in exponents of 2, that no other exceeds by more than kSlack: usually the largest so far.
  // At first beyond all scores, so that whatever was summed before the first key comes to nothing.
  float shift[2][2] = {{kNoShift, kNoShift}, {kNoShift, kNoShift}};
};

// The warp's scores of the tile's keys, q k not scaled.
template <int kHeadDim>
__device__ __forceinline__ void compute_scores(float (&scores)[2][kKeys / 8][4], const BFloat16* queries,
                                               const BFloat16* keys, const LaneOffsets<kHeadDim>& lane) {
  const int row = warp_index() * kWarpQueries;
#pragma unroll
  for (int block = 0; block < kHeadDim / 16; ++block) {
    uint32_t a[2][4];
    load_rows(a[0], queries, row, block, lane);
    load_rows(a[1], queries, row + 16, block, lane);
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, keys + n * 8 * kHeadDim + lane[block]);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma_m16n8k16_bf16(scores[m][n], a[m], b[0], b[2]);
        mma_m16n8k16_bf16(scores[m][n + 1], a[m], b[1], b[3]);
      }
    }
  }
}

// Scores of the keys that a row must not see become -infinity. `row`: the warp's first, `key`: the tile's.
__device__ __forceinline__ void mask_scores(float (&scores)[2][kKeys / 8][4], const Forward& p, int row,
                                            int key) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int query = row + 16 * m + 8 * h + group;
      const int first = p.first_row[min(query, p.tokens - 1)];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = key + 8 * n + 2 * pair + i;
          if (column > query || column < first) scores[m][n][2 * h + i] = -INFINITY;
        }
    }
}

// Turns scores into 2^(scale_log2 score + shift), adds them up, and rescales what was summed before where the
// shift changes: only when a score exceeds it by so much that sums might leave the range in which they are
// exact, which after the first tiles is rare. out / sum does not depend on the shift.
template <int kHeadDim>
__device__ __forceinline__ void softmax_step(float (&scores)[2][kKeys / 8][4], WarpState<kHeadDim>& state,
                                             float scale_log2) {
  float largest[2][2];
  bool exceeds = false;
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float own = fmaxf(scores[m][0][2 * h], scores[m][0][2 * h + 1]);
#pragma unroll
      for (int n = 1; n < kKeys / 8; ++n)
        own = fmaxf(own, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
      largest[m][h] = warp_max<4>(own) * scale_log2;
      exceeds |= largest[m][h] + state.shift[m][h] > kSlack;
    }
  if (__any_sync(kAllLanes, exceeds)) {
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float shift = fminf(state.shift[m][h], -largest[m][h]);
        const float factor = exp2_approx(shift - state.shift[m][h]);
        state.shift[m][h] = shift;
        state.sum[m][h] *= factor;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          state.out[m][n][2 * h] *= factor;
          state.out[m][n][2 * h + 1] *= factor;
        }
      }
  }
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[m][n][i] = exp2_approx(fmaf(scores[m][n][i], scale_log2, state.shift[m][i / 2]));
        state.sum[m][i / 2] += scores[m][n][i];
      }
}

// out += weights v.
template <int kHeadDim>
__device__ __forceinline__ void add_values(WarpState<kHeadDim>& state,
                                           const float (&weights)[2][kKeys / 8][4], const BFloat16* values,
                                           const LaneOffsets<kHeadDim>& lane) {
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    uint32_t a[2][4];
    as_fragment(a[0], weights[0], step);
    as_fragment(a[1], weights[1], step);
#pragma unroll
    for (int block = 0; block < kHeadDim / 16; ++block) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, values + step * 16 * kHeadDim + lane[block]);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        mma_m16n8k16_bf16(state.out[m][2 * block], a[m], b[0], b[1]);
        mma_m16n8k16_bf16(state.out[m][2 * block + 1], a[m], b[2], b[3]);
      }
    }
  }
}

template <int kHeadDim>
__device__ __forceinline__ void store_result(WarpState<kHeadDim>& state, const Forward& p, int head, int row,
                                             BFloat16* staging) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    float factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float sum = warp_sum<4>(state.sum[m][h]);
      const int query = row + 16 * m + 8 * h + group;
      factor[h] = 1.0f / sum;
      if (p.log_sum_exp != nullptr && pair == 0 && query < p.tokens)
        p.log_sum_exp[static_cast<int64_t>(query) * p.query_heads + head] =
            (log2_approx(sum) - state.shift[m][h]) * kLn2;
    }
    store_rows<kHeadDim>(state.out[m], factor, staging + 16 * m * kHeadDim, p.out + head * kHeadDim,
                         p.out_stride, row + 16 * m, p.tokens);
  }
}

// A block has 128 consecutive queries of one head and goes through the keys that any of them sees, 64 at a
// time: q is in shared memory, k and v follow each other there, each loaded during the other's product.
// Shared memory 256 rows, 64 KiB at D = 128: two blocks on a multiprocessor.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2) attention_forward_kernel(Forward p) {
  BFloat16* queries = dynamic_shared<BFloat16>();
  BFloat16* keys = queries + kQueries * kHeadDim;
  BFloat16* values = keys + kKeys * kHeadDim;
  const LaneOffsets<kHeadDim> lane;
  const int head = static_cast<int>(blockIdx.x), kv_head = head / (p.query_heads / p.kv_heads);
  const int first = tile_of_block<TileWork::kRowsBefore>(p.order) * kQueries;
  const int end = min(first + kQueries, p.tokens);
  const int first_key = p.first_row[first];
  // The warp's own rows, of which those from p.tokens on are not stored.
  const int row = first + warp_index() * kWarpQueries, last_row = min(row + kWarpQueries, p.tokens) - 1;
  const bool has_rows = row < p.tokens;
  const int row_first_key = has_rows ? p.first_row[row] : 0;

  const int64_t kv_stride = static_cast<int64_t>(p.kv_heads) * kHeadDim;
  const BFloat16* k = p.k + kv_head * kHeadDim;
  const BFloat16* v = p.v + kv_head * kHeadDim;
  copy_tile<kHeadDim, kQueries, kThreads>(queries, p.q + head * kHeadDim,
                                          static_cast<int64_t>(p.query_heads) * kHeadDim, first, end);
  copy_tile<kHeadDim, kKeys, kThreads>(keys, k, kv_stride, first_key, end);
  cp_async_commit();

  WarpState<kHeadDim> state;
  for (int key = first_key; key < end; key += kKeys) {
    cp_async_wait<0>();
    __syncthreads();  // the keys are there, and everyone is done with the values before
    copy_tile<kHeadDim, kKeys, kThreads>(values, v, kv_stride, key, end);
    cp_async_commit();
    const bool sees = has_rows && key <= last_row && key + kKeys > row_first_key;
    float scores[2][kKeys / 8][4] = {};
    if (sees) {
      compute_scores(scores, queries, keys, lane);
      if (key + kKeys - 1 > row || key < p.first_row[last_row]) mask_scores(scores, p, row, key);
      softmax_step(scores, state, p.scale * kLog2E);
    }
    cp_async_wait<0>();
    __syncthreads();  // the values are there, and everyone is done with the keys
    if (key + kKeys < end) {
      copy_tile<kHeadDim, kKeys, kThreads>(keys, k, kv_stride, key + kKeys, end);
      cp_async_commit();
    }
    if (sees) add_values(state, scores, values, lane);
  }
  if (has_rows) store_result(state, p, head, row, queries + warp_index() * kWarpQueries * kHeadDim);
}

// 4 D operations per head and pair of a query and a key that it sees. Qwen3-8B, T = 16384 in segments of
// 2048: 275 GFLOP a layer, q, k, v and out are 340 MB: 0.9 ms at 300 TFLOP/s, a third of what memory would
// allow.
template <int kHeadDim>
void launch_forward(CudaStream& stream, const Forward& p, unsigned tiles) {
  launch(stream, "attention_forward",
         {.grid = dim3(static_cast<unsigned>(p.query_heads), tiles),
          .block = kThreads,
          .shared_bytes = (kQueries + 2 * kKeys) * kHeadDim * sizeof(BFloat16)},
         attention_forward_kernel<kHeadDim>, p);
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool has_fast_path(const AttentionArgs& args, int64_t out_stride) {
  return args.q.dtype == DType::kBF16 && (args.head_dim == 64 || args.head_dim == 128) &&
         aligned(args.q.data) && aligned(args.k.data) && aligned(args.v.data) && aligned(args.out.data) &&
         out_stride % 8 == 0;
}

}  // namespace

void attention(const OpContext& context, const AttentionArgs& args) {
  const int64_t out_stride = args.out_stride != 0 ? args.out_stride : args.query_heads * args.head_dim;
  if (!has_fast_path(args, out_stride)) return attention_simple(context, args);
  ONGGI_CHECK(args.scale > 0, "attention scales scores by a positive factor");
  CudaStream& stream = cuda_stream(context);
  const TileOrder order{.tiles = blocks_for(args.tokens, kQueries),
                        .rows = kQueries,
                        .work = TileWork::kRowsBefore,
                        .blocks_per_tile = args.query_heads};
  auto* ranks = static_cast<int32_t*>(stream.scratch(tile_order_bytes(order)));
  const Forward p{.q = args.q.as<BFloat16>(),
                  .k = args.k.as<BFloat16>(),
                  .v = args.v.as<BFloat16>(),
                  .first_row = args.segments.first_row,
                  .order = order_tiles(stream, order, args.segments, args.tokens, ranks),
                  .out = args.out.as<BFloat16>(),
                  .log_sum_exp = args.log_sum_exp,
                  .out_stride = out_stride,
                  .tokens = static_cast<int>(args.tokens),
                  .query_heads = static_cast<int>(args.query_heads),
                  .kv_heads = static_cast<int>(args.kv_heads),
                  .scale = args.scale};
  if (args.head_dim == 128) {
    launch_forward<128>(stream, p, static_cast<unsigned>(order.tiles));
  } else {
    launch_forward<64>(stream, p, static_cast<unsigned>(order.tiles));
  }
}

}  // namespace onggi::cuda

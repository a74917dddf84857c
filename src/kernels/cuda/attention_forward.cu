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

// Of a warp's two blocks of 16 queries.
template <int kHeadDim>
struct WarpState {
  float out[2][kHeadDim / 8][4] = {};  // sums over the keys of weight v
  RowSums rows[2];
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

// Turns the scores of keys key .. into weights; `row`: the warp's first.
template <int kHeadDim>
__device__ __forceinline__ void softmax_step(float (&scores)[2][kKeys / 8][4], WarpState<kHeadDim>& state,
                                             const Forward& p, int row, int key) {
  const bool masked = key + kKeys - 1 > row || key < p.first_row[min(row + kWarpQueries, p.tokens) - 1];
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    if (masked) mask_scores(scores[m], p.first_row, p.tokens, row + 16 * m, key);
    float factor[2];
    if (follow_scores(scores[m], state.rows[m], p.scale * kLog2E, factor)) rescale(state.out[m], factor);
    exponentiate(scores[m], state.rows[m], p.scale * kLog2E);
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
__device__ __forceinline__ void store_result(const WarpState<kHeadDim>& state, const Forward& p, int head,
                                             int row, BFloat16* staging) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    float factor[2];
    finish_rows(state.rows[m], row + 16 * m, p.tokens, head, p.query_heads, p.log_sum_exp, factor);
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
      softmax_step(scores, state, p, row, key);
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
  const int32_t* ranks = order_tiles(stream, order, args.segments, args.tokens,
                                     static_cast<int32_t*>(stream.scratch(tile_order_bytes(order))));
  if (is_hopper(stream) && args.head_dim == 128)
    return attention_forward_sm90(stream, args, out_stride, ranks);
  const Forward p{.q = args.q.as<BFloat16>(),
                  .k = args.k.as<BFloat16>(),
                  .v = args.v.as<BFloat16>(),
                  .first_row = args.segments.first_row,
                  .order = ranks,
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

// The whole of attention's backward pass: two kernels that each compute the weights anew, rather than one
// that adds to dq from many blocks. That costs 7 products instead of 5, but dq needs no additions in memory,
// whose order would have to be enforced (the same inputs give the same bits) and which would move 8 KiB per
// query, head and tile of keys; and the weights never leave the registers.
#include <cstdint>

#include "kernels/cuda/attention_backward.cuh"
#include "kernels/cuda/cuda.h"

namespace onggi::cuda {
namespace {

constexpr int kStatisticsThreads = 256;

// statistics[head][t] = {log_sum_exp in exponents of 2, sum of dout * out}; rows from T to the stride become
// {infinity, 0}: weights of queries there are zero. D / 8 lanes per query and head, 16 bytes each of dout and
// out: 270 MB at Qwen3-8B and T = 16384, 0.09 ms.
template <int kHeadDim>
__global__ void __launch_bounds__(kStatisticsThreads)
    statistics_kernel(const BFloat16* dout, const BFloat16* out, int64_t out_stride, const float* log_sum_exp,
                      int tokens, int stride, int query_heads, float2* statistics) {
  constexpr int kLanes = kHeadDim / 8;
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kStatisticsThreads + threadIdx.x) / kLanes;
  const int64_t row = index / query_heads, head = index % query_heads;
  const int piece = static_cast<int>(threadIdx.x) % kLanes;
  float delta = 0;
  if (row < tokens) {
    float a[8], b[8];
    load_8(dout + index * kHeadDim + piece * 8, a);
    load_8(out + row * out_stride + head * kHeadDim + piece * 8, b);
#pragma unroll
    for (int i = 0; i < 8; ++i) delta = fmaf(a[i], b[i], delta);
  }
  delta = warp_sum<kLanes>(delta);
  if (piece != 0 || row >= stride) return;
  statistics[head * stride + row] =
      row < tokens ? make_float2(log_sum_exp[index] * kLog2E, delta) : make_float2(INFINITY, 0);
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool has_fast_path(const AttentionBackwardArgs& args, int64_t out_stride) {
  const void* const arrays[] = {args.dout.data, args.q.data,  args.k.data,  args.v.data,
                                args.out.data,  args.dq.data, args.dk.data, args.dv.data};
  for (const void* array : arrays)
    if (!aligned(array)) return false;
  return args.q.dtype == DType::kBF16 && (args.head_dim == 64 || args.head_dim == 128) && out_stride % 8 == 0;
}

template <int kHeadDim>
void compute_statistics(CudaStream& stream, const AttentionBackwardArgs& args, int64_t out_stride, int stride,
                        float2* statistics) {
  launch(stream, "attention_statistics",
         {.grid = blocks_for(args.query_heads * stride * (kHeadDim / 8), kStatisticsThreads),
          .block = kStatisticsThreads},
         statistics_kernel<kHeadDim>, args.dout.as<BFloat16>(), args.out.as<BFloat16>(), out_stride,
         args.log_sum_exp, static_cast<int>(args.tokens), stride, static_cast<int>(args.query_heads),
         statistics);
}

}  // namespace

void attention_backward(const OpContext& context, const AttentionBackwardArgs& args) {
  const int64_t out_stride = args.out_stride != 0 ? args.out_stride : args.query_heads * args.head_dim;
  if (!has_fast_path(args, out_stride)) return attention_backward_simple(context, args);
  CudaStream& stream = cuda_stream(context);
  const TileOrder by_key{.tiles = blocks_for(args.tokens, kBackwardRows),
                         .rows = kBackwardRows,
                         .work = TileWork::kRowsAfter,
                         .blocks_per_tile = args.kv_heads};
  TileOrder by_query = by_key;
  by_query.work = TileWork::kRowsBefore;
  by_query.blocks_per_tile = args.query_heads;
  const int stride = static_cast<int>(blocks_for(args.tokens, kStatisticsRows)) * kStatisticsRows;
  const size_t order_bytes = tile_order_bytes(by_key);
  const size_t statistics_bytes = static_cast<size_t>(args.query_heads * stride) * sizeof(float2);
  auto* scratch = static_cast<std::byte*>(stream.scratch(2 * order_bytes + statistics_bytes));
  auto* key_ranks = reinterpret_cast<int32_t*>(scratch);
  auto* query_ranks = reinterpret_cast<int32_t*>(scratch + order_bytes);
  auto* statistics = reinterpret_cast<float2*>(scratch + 2 * order_bytes);
  if (args.head_dim == 128) {
    compute_statistics<128>(stream, args, out_stride, stride, statistics);
  } else {
    compute_statistics<64>(stream, args, out_stride, stride, statistics);
  }
  Backward p{.dout = args.dout.as<BFloat16>(),
             .q = args.q.as<BFloat16>(),
             .k = args.k.as<BFloat16>(),
             .v = args.v.as<BFloat16>(),
             .statistics = statistics,
             .first_row = args.segments.first_row,
             .end_row = args.segments.end_row,
             .order = order_tiles(stream, by_key, args.segments, args.tokens, key_ranks),
             .dq = args.dq.as<BFloat16>(),
             .dk = args.dk.as<BFloat16>(),
             .dv = args.dv.as<BFloat16>(),
             .tokens = static_cast<int>(args.tokens),
             .statistics_stride = stride,
             .query_heads = static_cast<int>(args.query_heads),
             .kv_heads = static_cast<int>(args.kv_heads),
             .scale = args.scale};
  attention_backward_keys(stream, p, args.head_dim);
  p.order = order_tiles(stream, by_query, args.segments, args.tokens, query_ranks);
  attention_backward_queries(stream, p, args.head_dim);
}

}  // namespace onggi::cuda

// Attention over the paged cache: which kernels compute a pass, and the plain one that computes any.
#include <bit>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cached_attention.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/paged_cache.cuh"

namespace onggi::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;

// One query of one head per block, the cached tokens one by one to its warps in turns. Grid: T, Hq. Dynamic
// shared memory: f32 [1 + kWarps, D]: the query, then each warp's sums.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    cached_attention_plain_kernel(CachedAttentionArgs args, int64_t out_stride) {
  __shared__ float maxima[kWarps], totals[kWarps];
  auto* query = dynamic_shared<float>();
  overlap_launches();
  const int64_t row = blockIdx.x, head = blockIdx.y, dim = args.head_dim;
  const int sequence = args.sequences.sequence[row];
  const auto length =
      static_cast<int>(args.sequences.past[sequence] + row - args.sequences.first_row[sequence] + 1);
  const int32_t* pages = args.sequences.pages + sequence * args.sequences.page_stride;
  const int64_t kv_head = head / (args.query_heads / args.kv_heads);
  float* sums = query + (1 + warp_index()) * dim;
  for (int64_t d = threadIdx.x; d < dim; d += kThreads)
    query[d] = load_any(args.q, (row * args.query_heads + head) * dim + d);
  for (int64_t d = lane_index(); d < dim; d += kWarp) sums[d] = 0;
  __syncthreads();

  float maximum = kNoScore, total = 0;
  for (int token = warp_index(); token < length; token += kWarps) {
    const int64_t index = (cache_row(pages, token, args.cache.page_tokens) * args.kv_heads + kv_head) * dim;
    const Element* key = static_cast<const Element*>(args.cache.keys) + index;
    const Element* value = static_cast<const Element*>(args.cache.values) + index;
    float score = 0;
    for (int64_t d = lane_index(); d < dim; d += kWarp) score += query[d] * load_f32(key + d);
    score = warp_sum(score) * args.scale;
    const float above = fmaxf(maximum, score);
    const float factor = expf(maximum - above), probability = expf(score - above);
    maximum = above;
    total = total * factor + probability;
    for (int64_t d = lane_index(); d < dim; d += kWarp)
      sums[d] = sums[d] * factor + probability * load_f32(value + d);
  }
  if (lane_index() == 0) {
    maxima[warp_index()] = maximum;
    totals[warp_index()] = total;
  }
  __syncthreads();

  float all = maxima[0], all_total = 0, weights[kWarps];
  for (int warp = 1; warp < kWarps; ++warp) all = fmaxf(all, maxima[warp]);
  for (int warp = 0; warp < kWarps; ++warp) {
    weights[warp] = expf(maxima[warp] - all);
    all_total += weights[warp] * totals[warp];
  }
  for (int64_t d = threadIdx.x; d < dim; d += kThreads) {
    float sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += weights[warp] * query[(1 + warp) * dim + d];
    store_any(args.out, row * out_stride + head * dim + d, sum / all_total);
  }
}

}  // namespace

// Bytes: the sequence's cache once per query and query head, mostly from L2.
void cached_attention_plain(CudaStream& stream, const CachedAttentionArgs& args) {
  const int64_t out_stride = args.out_stride != 0 ? args.out_stride : args.query_heads * args.head_dim;
  with_cache_type(args.cache.dtype, [&](auto* element) {
    using Element = std::remove_const_t<std::remove_pointer_t<decltype(element)>>;
    launch(stream, "cached_attention (plain)",
           {.grid = dim3(static_cast<unsigned>(args.tokens), static_cast<unsigned>(args.query_heads)),
            .block = kThreads,
            .shared_bytes = static_cast<size_t>(args.head_dim) * (1 + kWarps) * sizeof(float),
            .overlap = Overlap::kWithPrevious},
           cached_attention_plain_kernel<Element>, args, out_stride);
  });
}

bool can_use_tiles(const CachedAttentionArgs& args) {
  constexpr int kLeastPage = 16;
  const auto page = static_cast<unsigned>(args.cache.page_tokens);
  return args.q.dtype == DType::kBF16 && args.out.dtype == DType::kBF16 && args.cache.dtype != DType::kF32 &&
         (args.head_dim == 64 || args.head_dim == 128) && page >= kLeastPage && std::has_single_bit(page) &&
         fits_vectors(args.out_stride, args.q.data, args.out.data, args.cache.keys, args.cache.values);
}

// In a pass that mixes both, decoding sequences have their own kernel: one of them alone would keep a tile of
// the prefill kernel, and so the whole pass, busy for as long as its context is.
void cached_attention(const OpContext& context, const CachedAttentionArgs& args) {
  CudaStream& stream = cuda_stream(context);
  if (args.tokens == 0) return;
  if (!can_use_tiles(args)) return cached_attention_plain(stream, args);
  if (args.sequences.longest_rows == 1) return decode_attention(stream, args);
  if (args.sequences.count == 1) return prefill_attention(stream, args, /*least_rows=*/1);
  decode_attention(stream, args);
  prefill_attention(stream, args, /*least_rows=*/2);
}

}  // namespace onggi::cuda

// Attention of sequences with one new token each: the cache is read once, and that is all the time it takes.
//
// A block has the query heads of one key/value head (up to eight, so that they share what is read) and one
// range of a sequence's tokens; its warps take chunks of 16 tokens in turns (decode_tokens.cuh). Warps are
// merged in shared memory, ranges by the block that comes last, in the order of the ranges whoever that is.
#include <algorithm>
#include <bit>
#include <memory>

#include "kernels/cuda/cached_attention.h"
#include "kernels/cuda/decode_tokens.cuh"

namespace onggi::cuda {
namespace {

using namespace decode;

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kBlocksPerMultiprocessor = 3;
constexpr int kRangeUnit = kChunk * kWarps;  // a chunk for each warp
constexpr int kLongRange = 4 * kRangeUnit;   // as many blocks as fit are not worth shorter ones
constexpr int kMaxSplits = 128;
constexpr int64_t kMaxArrivals = 1 << 14;

// Counters of the blocks that are done with a range; zero between launches.
struct Arrivals {
  Buffer counters;
};

// How the cached tokens of a sequence are spread over blocks. The host knows an upper bound of the lengths
// alone; blocks apply the rule to the true length, and those without a share end at once.
struct SplitRule {
  int wanted;   // so many splits keep the memory busy
  int fitting;  // so many run side by side, worth having where their ranges are long
};
SplitRule split_rule(int64_t blocks_per_split, int multiprocessors) {
  const auto blocks = [&](int per_multiprocessor) {
    const int64_t splits = int64_t{per_multiprocessor} * multiprocessors / blocks_per_split;
    return static_cast<int>(std::clamp<int64_t>(splits, 1, kMaxSplits));
  };
  if (blocks_per_split > kMaxArrivals) return {1, 1};
  return {blocks(2), blocks(kBlocksPerMultiprocessor)};
}

struct DecodeArgs {
  const BFloat16* q;
  const void* keys;
  const void* values;
  const int32_t* pages;
  int64_t page_stride;
  const int32_t* first_row;
  const int32_t* rows;
  const int32_t* past;
  int page_shift;  // log2 P
  int kv_heads, group, head_blocks;
  float scale;  // of scores as exponents of 2
  BFloat16* out;
  int64_t out_stride;
  SplitRule rule;
  float* partial;      // f32 [S, Hkv, head blocks, splits, kHeads, D + 2]: sums, then maximum and total
  unsigned* arrivals;  // u32 [S, Hkv, head blocks]
};

// Grows with the length.
__host__ __device__ inline int splits_of(int length, const SplitRule& rule) {
  const int units = (length + kRangeUnit - 1) / kRangeUnit;
  int splits = length / kLongRange < rule.fitting ? length / kLongRange : rule.fitting;
  splits = splits > rule.wanted ? splits : rule.wanted;
  return splits < units ? splits : units;
}

// The tokens of one block, and how many blocks have some.
struct Range {
  int begin, end, active;
};
__device__ __forceinline__ Range range_of(int split, int length, const SplitRule& rule) {
  const int splits = splits_of(length, rule);
  const int share = ((length + splits - 1) / splits + kRangeUnit - 1) / kRangeUnit * kRangeUnit;
  const int begin = split * share;
  return {begin, begin + share < length ? begin + share : length, (length + share - 1) / share};
}

// The warps' states in shared memory; after the block has merged its own, the weights of all ranges.
template <int kHeadDim>
struct Shared {
  static constexpr int kRow = kHeadDim + 4;  // fewer warps' stores in one bank
  alignas(16) float sums[kWarps][kHeads][kRow];
  float maximum[kWarps][kHeads], total[kWarps][kHeads];
  float weights[kHeads][kMaxSplits];
  int is_last;
};

template <int kHeadDim>
__device__ __forceinline__ void store_state(Shared<kHeadDim>& shared, const WarpState<kHeadDim>& state,
                                            const Lane& lane) {
  const int warp = warp_index();
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int head = 2 * lane.pair + h;
    float total = state.total[h];
#pragma unroll
    for (int offset = 4; offset < kWarp; offset *= 2) total += __shfl_xor_sync(kAllLanes, total, offset);
    if (lane.group == 0) {
      shared.maximum[warp][head] = state.maximum[h];
      shared.total[warp][head] = total;
    }
#pragma unroll
    for (int e = 0; e < kHeadDim / 64; ++e) {
      float* to = &shared.sums[warp][head][64 * e + 8 * lane.group];
      const auto& s = state.sums;
      const int j = 4 * e;
      reinterpret_cast<float4*>(to)[0] = make_float4(s[j][h], s[j][h + 2], s[j + 1][h], s[j + 1][h + 2]);
      reinterpret_cast<float4*>(to)[1] =
          make_float4(s[j + 2][h], s[j + 2][h + 2], s[j + 3][h], s[j + 3][h + 2]);
    }
  }
}

// What a block works on.
struct Work {
  int sequence, kv_head, head_block, split;
  int heads;         // of this block
  int64_t counter;   // index in arrivals
  int64_t out_head;  // first query head
};
__device__ __forceinline__ Work work_of_block(const DecodeArgs& args) {
  Work work;
  work.kv_head = static_cast<int>(blockIdx.x) / args.head_blocks;
  work.head_block = static_cast<int>(blockIdx.x) % args.head_blocks;
  work.split = static_cast<int>(blockIdx.y);
  work.sequence = static_cast<int>(blockIdx.z);
  const int left = args.group - work.head_block * kHeads;
  work.heads = left < kHeads ? left : kHeads;
  work.counter = static_cast<int64_t>(blockIdx.z) * gridDim.x + blockIdx.x;
  work.out_head = int64_t{work.kv_head} * args.group + work.head_block * kHeads;
  return work;
}

template <int kHeadDim>
__device__ __forceinline__ float* partial_of(const DecodeArgs& args, const Work& work, int split) {
  return args.partial + (work.counter * gridDim.y + split) * kHeads * (kHeadDim + 2);
}

// Merges the warps: writes the output where this block has all tokens, the range's state otherwise.
template <int kHeadDim>
__device__ __forceinline__ void merge_warps(const DecodeArgs& args, const Work& work,
                                            const Shared<kHeadDim>& shared, BFloat16* out, bool is_all) {
  constexpr int kAtOnce = kThreads / kHeadDim;
  const int d = static_cast<int>(threadIdx.x) % kHeadDim;
  float* partial = is_all ? nullptr : partial_of<kHeadDim>(args, work, work.split);
  for (int head = static_cast<int>(threadIdx.x) / kHeadDim; head < work.heads; head += kAtOnce) {
    float maximum = shared.maximum[0][head];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) maximum = fmaxf(maximum, shared.maximum[warp][head]);
    float sum = 0, total = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      const float weight = exp2_approx(shared.maximum[warp][head] - maximum);
      sum += weight * shared.sums[warp][head][d];
      total += weight * shared.total[warp][head];
    }
    if (is_all) {
      store_f32(out + head * kHeadDim + d, sum / total);
      continue;
    }
    __stcg(partial + head * kHeadDim + d, sum);
    if (d == 0) {
      __stcg(partial + kHeads * kHeadDim + head, maximum);
      __stcg(partial + kHeads * kHeadDim + kHeads + head, total);
    }
  }
}

// Merges the ranges. `active` of them have tokens.
template <int kHeadDim>
__device__ __forceinline__ void merge_ranges(const DecodeArgs& args, const Work& work,
                                             Shared<kHeadDim>& shared, BFloat16* out, int active) {
  for (int head = warp_index(); head < work.heads; head += kWarps) {
    float maximum = kNoScore, total = 0;
    for (int split = lane_index(); split < active; split += kWarp) {
      const float* state = partial_of<kHeadDim>(args, work, split) + kHeads * kHeadDim;
      maximum = fmaxf(maximum, __ldcg(state + head));
    }
    maximum = warp_max(maximum);
    for (int split = lane_index(); split < active; split += kWarp) {
      const float* state = partial_of<kHeadDim>(args, work, split) + kHeads * kHeadDim;
      const float weight = exp2_approx(__ldcg(state + head) - maximum);
      shared.weights[head][split] = weight;
      total += weight * __ldcg(state + kHeads + head);
    }
    const float inverse = 1 / warp_sum(total);
    __syncwarp();
    for (int split = lane_index(); split < active; split += kWarp) shared.weights[head][split] *= inverse;
  }
  __syncthreads();
  constexpr int kAtOnce = kThreads / kHeadDim;
  const int d = static_cast<int>(threadIdx.x) % kHeadDim;
  for (int head = static_cast<int>(threadIdx.x) / kHeadDim; head < work.heads; head += kAtOnce) {
    const float* partial = partial_of<kHeadDim>(args, work, 0) + head * kHeadDim + d;
    float sum = 0;
#pragma unroll 8
    for (int split = 0; split < active; ++split)
      sum += shared.weights[head][split] * __ldcg(partial + int64_t{split} * kHeads * (kHeadDim + 2));
    store_f32(out + head * kHeadDim + d, sum);
  }
}

// Whether this block is the last of `active` to come here; it then sees what the others wrote, and the
// counter is zero again.
template <int kHeadDim>
__device__ __forceinline__ bool comes_last(Shared<kHeadDim>& shared, unsigned* counter, int active) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.is_last = atomicAdd(counter, 1u) + 1 == static_cast<unsigned>(active) ? 1 : 0;
    if (shared.is_last != 0) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return shared.is_last != 0;
}

template <typename Element, int kHeadDim>
__device__ __forceinline__ void load_query(uint4 (&query)[kHeadDim / 32], const BFloat16* q, const Lane& lane,
                                           int heads) {
#pragma unroll
  for (int c = 0; c < kHeadDim / 32; ++c) {
    const auto* piece = reinterpret_cast<const uint4*>(q + lane.group * kHeadDim + 32 * c + 8 * lane.pair);
    query[c] = lane.group < heads ? CacheElement<Element>::from_bf16(*piece) : make_uint4(0, 0, 0, 0);
  }
}

// Grid: Hkv * head blocks (neighbours read neighbouring rows of the cache), splits, S.
template <typename Element, int kHeadDim>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    decode_attention_kernel(DecodeArgs args) {
  __shared__ Shared<kHeadDim> shared;
  grid_dependency_launch();
  grid_dependency_wait();
  const Work work = work_of_block(args);
  // Read together, since what is read next depends on them.
  const int rows = args.rows[work.sequence], length = args.past[work.sequence] + 1;
  const int64_t out_row = args.first_row[work.sequence];
  if (rows != 1) return;
  const Range range = range_of(work.split, length, args.rule);
  if (range.begin >= length) return;

  const Lane lane;
  const int row_stride = args.kv_heads * kHeadDim;
  uint4 query[kHeadDim / 32];
  load_query<Element, kHeadDim>(
      query, args.q + (out_row * args.kv_heads * args.group + work.out_head) * kHeadDim, lane, work.heads);

  // The pages of this warp's next 32 chunks, one per lane, so that no chunk waits for the table.
  const int32_t* pages = args.pages + work.sequence * args.page_stride;
  const int first = range.begin + warp_index() * kChunk;
  int page = 0;
  const auto load_pages = [&](int token) {
    const int of_lane = token + lane_index() * kRangeUnit;
    page = of_lane < range.end ? pages[of_lane >> args.page_shift] : 0;
  };
  const auto chunk_offset = [&](int token) {
    const int64_t of_chunk = __shfl_sync(kAllLanes, page, (token - first) / kRangeUnit % kWarp);
    const int64_t row = (of_chunk << args.page_shift) + (token & ((1 << args.page_shift) - 1));
    return row * row_stride + work.kv_head * kHeadDim;
  };

  WarpState<kHeadDim> state;
  Pieces<kHeadDim> pieces;
  const auto* keys = static_cast<const Element*>(args.keys);
  const auto* values = static_cast<const Element*>(args.values);
  int64_t offset = 0;
  if (first < range.end) {
    load_pages(first);
    offset = chunk_offset(first);
    load_keys(pieces, keys + offset, row_stride, lane, range.end - first);
  }
  for (int token = first; token < range.end; token += kRangeUnit) {
    const int valid = range.end - token, next = token + kRangeUnit;
    load_values(pieces, values + offset, row_stride, lane, valid);
    float scores[4];
    score<Element>(scores, pieces, query);
    if (next < range.end) {
      if ((next - first) / kRangeUnit % kWarp == 0) load_pages(next);
      offset = chunk_offset(next);
      load_keys(pieces, keys + offset, row_stride, lane, range.end - next);
    }
    take_scores(state, scores, args.scale, lane, valid);
    add_values<Element>(state, pieces, scores);
  }

  store_state(shared, state, lane);
  __syncthreads();
  BFloat16* out = args.out + out_row * args.out_stride + work.out_head * kHeadDim;
  merge_warps(args, work, shared, out, range.active == 1);
  if (range.active == 1) return;
  if (comes_last(shared, args.arrivals + work.counter, range.active))
    merge_ranges(args, work, shared, out, range.active);
}

template <typename Element, int kHeadDim>
void launch_decode(CudaStream& stream, const DecodeArgs& args, dim3 grid) {
  launch(stream, "cached_attention (decode)",
         {.grid = grid, .block = kThreads, .overlap = Overlap::kWithPrevious},
         decode_attention_kernel<Element, kHeadDim>, args);
}

}  // namespace

// Bytes: 2 S longest Hkv D of the cache and little else; Qwen3-8B (Hkv 8, D 128, bf16) 4 KiB per token of the
// cache and layer: 8192 tokens 34 MB, 11 us at 3 TB/s. Short contexts take as long as a handful of dependent
// loads from memory, about 3 us.
void decode_attention(CudaStream& stream, const CachedAttentionArgs& args) {
  const int group = static_cast<int>(args.query_heads / args.kv_heads);
  const int head_blocks = (group + kHeads - 1) / kHeads;
  const int64_t columns = args.kv_heads * head_blocks, counters = args.sequences.count * columns;
  const SplitRule rule = split_rule(counters, stream.multiprocessors());
  const int splits = splits_of(static_cast<int>(args.sequences.longest), rule);
  Buffer& arrivals = stream
                         .attachment<Arrivals>([&] {
                           auto made = std::make_shared<Arrivals>();
                           made->counters = stream.allocate(kMaxArrivals * sizeof(unsigned));
                           stream.fill_zero(made->counters.data(), made->counters.bytes());
                           return made;
                         })
                         .counters;
  const size_t state_floats = static_cast<size_t>(kHeads * (args.head_dim + 2));
  DecodeArgs work{.q = args.q.as<BFloat16>(),
                  .keys = args.cache.keys,
                  .values = args.cache.values,
                  .pages = args.sequences.pages,
                  .page_stride = args.sequences.page_stride,
                  .first_row = args.sequences.first_row,
                  .rows = args.sequences.rows,
                  .past = args.sequences.past,
                  .page_shift = std::countr_zero(static_cast<unsigned>(args.cache.page_tokens)),
                  .kv_heads = static_cast<int>(args.kv_heads),
                  .group = group,
                  .head_blocks = head_blocks,
                  .scale = args.scale * kLog2OfE,
                  .out = args.out.as<BFloat16>(),
                  .out_stride = args.out_stride != 0 ? args.out_stride : args.query_heads * args.head_dim,
                  .rule = rule,
                  .partial = nullptr,
                  .arrivals = arrivals.as<unsigned>()};
  if (splits > 1) {
    const size_t states = static_cast<size_t>(counters) * static_cast<size_t>(splits);
    work.partial = static_cast<float*>(stream.scratch(states * state_floats * sizeof(float)));
  }
  const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>(splits),
                  static_cast<unsigned>(args.sequences.count));
  const bool is_bf16 = args.cache.dtype == DType::kBF16;
  if (args.head_dim == 128)
    is_bf16 ? launch_decode<BFloat16, 128>(stream, work, grid) : launch_decode<Half, 128>(stream, work, grid);
  else
    is_bf16 ? launch_decode<BFloat16, 64>(stream, work, grid) : launch_decode<Half, 64>(stream, work, grid);
}

}  // namespace onggi::cuda

// The largest logits of each row, exact and in order, and the row's log-sum-exp.
//
// A row is cut into segments of 8192 logits, a block each, so that one row too uses many SMs. A block holds
// its segment in registers. The count-th largest of its threads' own maxima bounds the count-th largest logit
// from below, and is found by bisection over bits, one counting barrier each (over ids too where maxima are
// equal); what reaches the bound (a few more than count logits) is ranked by comparing all with all. A second
// kernel does the same with the best of a row's segments. Where too many reach the bound (the best all in few
// threads), the exact bound is bisected over all logits, and over ids among equals.
#include <algorithm>
#include <bit>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kPerThread = 16;
constexpr int kSegment = kThreads * kPerThread;
constexpr int64_t kMaxSegments = kSegment / kMaxTopLogits;  // the second kernel holds their best
constexpr int64_t kRowsPerLaunch = 256;                     // bounds the working memory
constexpr unsigned kMaxFound = 1024;                        // elements that are ranked
constexpr float kLog2E = 1.44269504f;

// Orders logits as unsigned numbers: larger key, larger logit. No logit has key 0, which marks no element.
// Both zeros have one key, and what is not finite that of -infinity.
__device__ __forceinline__ uint32_t key_of(float logit) {
  const float value = isfinite(logit) ? logit + 0.0f : -INFINITY;
  const uint32_t bits = __float_as_uint(value);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

// Key and id as one number that orders as the contract does: of equal logits the smaller id first.
__device__ __forceinline__ uint64_t entry_of(uint32_t key, uint32_t id) { return uint64_t{key} << 32 | ~id; }
__device__ __forceinline__ uint32_t key_of_entry(uint64_t entry) {
  return static_cast<uint32_t>(entry >> 32);
}
__device__ __forceinline__ uint32_t id_of_entry(uint64_t entry) { return ~static_cast<uint32_t>(entry); }

// A thread's elements; key 0 where there is none.
struct Elements {
  uint32_t keys[kPerThread], ids[kPerThread];
};

struct Found {
  uint64_t entries[kMaxFound];
  unsigned count;
};

// The largest bound for which at least `count` of the block's elements have at_least(bound); 0 if there is
// none. at_least must hold for fewer elements the larger the bound. The bits are those of `bits`.
template <typename CountAtLeast>
__device__ __forceinline__ uint32_t bisect(int bits, int count, const CountAtLeast& count_at_least) {
  uint32_t bound = 0;
  for (int bit = bits - 1; bit >= 0; --bit) {
    const uint32_t candidate = bound | 1u << bit;
    if (count_at_least(candidate) >= count) bound = candidate;
  }
  return bound;
}

// Puts the elements for which wanted(key, id) holds into `found`, in any order; counts them all even where
// there is no room. Ends with a barrier.
template <typename Wanted>
__device__ __forceinline__ void collect(const Elements& elements, const Wanted& wanted, Found& found) {
  if (threadIdx.x == 0) found.count = 0;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const bool mine = elements.keys[i] != 0 && wanted(elements.keys[i], elements.ids[i]);
    const unsigned takers = __ballot_sync(kAllLanes, mine);
    if (takers == 0) continue;
    unsigned slot = 0;
    if (lane_index() == 0) slot = atomicAdd(&found.count, static_cast<unsigned>(__popc(takers)));
    slot =
        __shfl_sync(kAllLanes, slot, 0) + static_cast<unsigned>(__popc(takers & ((1u << lane_index()) - 1)));
    if (mine && slot < kMaxFound) found.entries[slot] = entry_of(elements.keys[i], elements.ids[i]);
  }
  __syncthreads();
}

// Exactly the best `count`, where the quick bound lets too many through.
__device__ __noinline__ void collect_exactly(const Elements& elements, int count, Found& found) {
  const auto count_of = [&](const auto& wanted) {
    int mine = 0;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i)
      mine += elements.keys[i] != 0 && wanted(elements.keys[i], elements.ids[i]) ? 1 : 0;
    return block_sum<kThreads>(mine);
  };
  const uint32_t bound = bisect(32, count, [&](uint32_t least) {
    return count_of([least](uint32_t key, uint32_t) { return key >= least; });
  });
  const int above = count_of([bound](uint32_t key, uint32_t) { return key > bound; });
  // Of those at the bound the smallest ids: bisected as the largest complements.
  const uint32_t least_complement = bisect(32, count - above, [&](uint32_t least) {
    return count_of([bound, least](uint32_t key, uint32_t id) { return key == bound && ~id >= least; });
  });
  collect(
      elements,
      [bound, least_complement](uint32_t key, uint32_t id) {
        return key > bound || (key == bound && ~id >= least_complement);
      },
      found);
}

// Calls take(rank, entry) for the best `count` of the block's elements (all, where there are fewer), rank 0
// the best, each from one thread. Returns how many there were.
// Ids are below 2^id_bits.
template <typename Take>
__device__ __forceinline__ int take_best(const Elements& elements, int count, int id_bits, Found& found,
                                         const Take& take) {
  uint64_t best = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const uint64_t entry = elements.keys[i] != 0 ? entry_of(elements.keys[i], elements.ids[i]) : 0;
    best = max(best, entry);
  }
  const uint32_t key = key_of_entry(best), id = id_of_entry(best);
  const uint32_t bound =
      bisect(32, count, [key](uint32_t least) { return __syncthreads_count(key >= least); });
  // Of equal logits only as many as are wanted: where few values repeat, thousands of them would be ranked.
  uint32_t last_id = 0xFFFFFFFFu;
  if (bound != 0 && __syncthreads_count(key >= bound) > count) {
    const uint32_t top_id = (1u << id_bits) - 1;
    last_id = top_id - bisect(id_bits, count, [=](uint32_t least) {
                return __syncthreads_count(key > bound || (key == bound && top_id - id >= least));
              });
  }
  collect(
      elements,
      [bound, last_id](uint32_t k, uint32_t i) { return k > bound || (k == bound && i <= last_id); }, found);
  if (found.count > kMaxFound) {
    __syncthreads();                      // all have read the count that is now made anew
    const Elements in_memory = elements;  // so that only this rare path needs their addresses
    collect_exactly(in_memory, count, found);
  }
  const int found_count = static_cast<int>(found.count);
  for (int i = warp_index(); i < found_count; i += kThreads / kWarp) {
    const uint64_t entry = found.entries[i];
    int rank = 0;
    for (int begin = 0; begin < found_count; begin += kWarp) {
      const int other = begin + lane_index();
      rank += __popc(__ballot_sync(kAllLanes, other < found_count && found.entries[other] > entry));
    }
    if (rank < count && lane_index() == 0) take(rank, entry);
  }
  return min(found_count, count);
}

// sum of exp(logit - maximum) over a part of a row.
struct PartialSum {
  float maximum, sum;
};

struct SegmentArgs {
  const float* logits;  // f32 [rows, V]
  int64_t vocabulary;
  int count, id_bits;
  bool aligned;      // rows are whole quads at addresses divisible by 16
  uint64_t* best;    // [rows, count, segments]; 0: none
  PartialSum* sums;  // [rows, segments]
};

// Four logits from index i of a row on, the first of them in it; zeros beyond its end.
__device__ __forceinline__ float4 load_quad(const SegmentArgs& args, const float* row, int64_t i) {
  if (args.aligned) return *reinterpret_cast<const float4*>(row + i);
  float4 quad = make_float4(row[i], 0, 0, 0);
  if (i + 1 < args.vocabulary) quad.y = row[i + 1];
  if (i + 2 < args.vocabulary) quad.z = row[i + 2];
  if (i + 3 < args.vocabulary) quad.w = row[i + 3];
  return quad;
}

__device__ __forceinline__ Elements load_segment(const SegmentArgs& args) {
  const float* row = args.logits + int64_t{blockIdx.y} * args.vocabulary;
  Elements elements;
#pragma unroll
  for (int quad = 0; quad < kPerThread / 4; ++quad) {
    const int64_t i = int64_t{blockIdx.x} * kSegment + (quad * kThreads + static_cast<int>(threadIdx.x)) * 4;
    float4 logits = make_float4(0, 0, 0, 0);
    if (i < args.vocabulary) logits = load_quad(args, row, i);
    const float values[4] = {logits.x, logits.y, logits.z, logits.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      elements.keys[4 * quad + j] = i + j < args.vocabulary ? key_of(values[j]) : 0;
      elements.ids[4 * quad + j] = static_cast<uint32_t>(i + j);
    }
  }
  return elements;
}

__device__ __forceinline__ PartialSum sum_segment(const Elements& elements) {
  uint32_t best = 0;
#pragma unroll
  for (const uint32_t key : elements.keys) best = max(best, key);
  const float maximum = logit_of(block_max<kThreads>(best));
  float sum = 0;
  if (isfinite(maximum)) {
#pragma unroll
    for (const uint32_t key : elements.keys)
      if (key != 0) sum += exp2_approx((logit_of(key) - maximum) * kLog2E);
  }
  return {maximum, block_sum<kThreads>(sum)};
}

__global__ void __launch_bounds__(kThreads) best_of_segments_kernel(SegmentArgs args) {
  __shared__ Found found;
  overlap_launches();
  const Elements elements = load_segment(args);
  const PartialSum sum = sum_segment(elements);
  const unsigned segments = gridDim.x;
  if (threadIdx.x == 0) args.sums[blockIdx.y * segments + blockIdx.x] = sum;
  uint64_t* best = args.best + int64_t{blockIdx.y} * args.count * segments + blockIdx.x;
  const int taken = take_best(
      elements, args.count, args.id_bits, found,
      [best, segments](int rank, uint64_t entry) { best[static_cast<unsigned>(rank) * segments] = entry; });
  for (int rank = taken + static_cast<int>(threadIdx.x); rank < args.count; rank += kThreads)
    best[static_cast<unsigned>(rank) * segments] = 0;
}

struct RowArgs {
  const uint64_t* best;  // [rows, count, segments]: neighbours are of equal rank, so that the best of all lie
                         // in different threads
  const PartialSum* sums;
  int segments, count, id_bits;
  float* values;
  int32_t* ids;
  float* log_sum_exp;
};

__device__ __forceinline__ float log_sum_exp_of(const PartialSum* sums, int segments) {
  const bool mine = static_cast<int>(threadIdx.x) < segments;
  const PartialSum part = mine ? sums[threadIdx.x] : PartialSum{-INFINITY, 0};
  const float maximum = block_max<kThreads>(part.maximum);
  const float share = part.sum > 0 ? part.sum * exp2_approx((part.maximum - maximum) * kLog2E) : 0.0f;
  return maximum + logf(block_sum<kThreads>(share));
}

__global__ void __launch_bounds__(kThreads) best_of_rows_kernel(RowArgs args) {
  __shared__ Found found;
  overlap_launches();
  const int64_t row = blockIdx.x;
  const int candidates = args.segments * args.count;
  Elements elements;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int index = i * kThreads + static_cast<int>(threadIdx.x);
    const uint64_t entry = index < candidates ? args.best[row * candidates + index] : 0;
    elements.keys[i] = key_of_entry(entry);
    elements.ids[i] = id_of_entry(entry);
  }
  const float log_sum_exp = log_sum_exp_of(args.sums + row * args.segments, args.segments);
  if (threadIdx.x == 0) args.log_sum_exp[row] = log_sum_exp;
  float* values = args.values + row * args.count;
  int32_t* ids = args.ids + row * args.count;
  take_best(elements, args.count, args.id_bits, found, [values, ids](int rank, uint64_t entry) {
    values[rank] = logit_of(key_of_entry(entry));
    ids[rank] = static_cast<int32_t>(id_of_entry(entry));
  });
}

}  // namespace

// Bytes: 4 M V. V = 151936: one row 0.6 MB, a few us of latency; 64 rows 39 MB, 13 us at 3 TB/s (less where
// L2 still holds them) beside about 40 counting barriers in each of 1216 blocks.
void top_logits(const OpContext& context, const TopLogitsArgs& args) {
  CudaStream& stream = cuda_stream(context);
  const int64_t segments = blocks_for(args.vocabulary, kSegment), count = args.count;
  ONGGI_CHECK(segments <= kMaxSegments, "vocabulary of top_logits");
  ONGGI_CHECK(count >= 1 && count <= kMaxTopLogits && count <= args.vocabulary, "count of top_logits");
  const int id_bits = std::bit_width(static_cast<uint64_t>(args.vocabulary - 1));
  const int64_t batch = std::min(args.rows, kRowsPerLaunch);
  const auto best_bytes = static_cast<size_t>(batch * count * segments) * sizeof(uint64_t);
  auto* best = static_cast<std::byte*>(
      stream.scratch(best_bytes + static_cast<size_t>(batch * segments) * sizeof(PartialSum)));
  for (int64_t begin = 0; begin < args.rows; begin += batch) {
    const int64_t rows = std::min(batch, args.rows - begin);
    const SegmentArgs of_segments{.logits = args.logits + begin * args.vocabulary,
                                  .vocabulary = args.vocabulary,
                                  .count = static_cast<int>(count),
                                  .id_bits = id_bits,
                                  .aligned = args.vocabulary % 4 == 0 && is_vector_aligned(args.logits),
                                  .best = reinterpret_cast<uint64_t*>(best),
                                  .sums = reinterpret_cast<PartialSum*>(best + best_bytes)};
    launch(stream, "top_logits",
           {.grid = dim3(static_cast<unsigned>(segments), static_cast<unsigned>(rows)),
            .block = kThreads,
            .overlap = Overlap::kWithPrevious},
           best_of_segments_kernel, of_segments);
    const RowArgs of_rows{.best = of_segments.best,
                          .sums = of_segments.sums,
                          .segments = static_cast<int>(segments),
                          .count = static_cast<int>(count),
                          .id_bits = id_bits,
                          .values = args.values + begin * count,
                          .ids = args.ids + begin * count,
                          .log_sum_exp = args.log_sum_exp + begin};
    launch(stream, "top_logits (rows)",
           {.grid = static_cast<unsigned>(rows), .block = kThreads, .overlap = Overlap::kWithPrevious},
           best_of_rows_kernel, of_rows);
  }
}

}  // namespace onggi::cuda

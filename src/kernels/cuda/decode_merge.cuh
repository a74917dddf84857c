// How blocks of the decoding kernel share the cached tokens of a sequence, and how what their warps have seen
// becomes one output. Warps are merged in shared memory; ranges within a cluster of blocks where there are
// clusters, else by the block that comes last, in the order of the ranges whoever that is.
#pragma once

#include <cstddef>
#include <type_traits>

#include "kernels/cuda/decode_tokens.cuh"
#include "kernels/cuda/rotary.cuh"

namespace onggi::cuda::decode {

enum class Merge {
  kInMemory,   // through global memory: many small blocks
  kInCluster,  // sm_90: a sequence's ranges are a cluster of large blocks, for the shortest time
};

template <Merge kMerge>
struct BlockShape;
template <>
struct BlockShape<Merge::kInMemory> {
  static constexpr int kWarps = 4, kPerMultiprocessor = 4;
};
template <>
struct BlockShape<Merge::kInCluster> {
  static constexpr int kWarps = 8, kPerMultiprocessor = 2;
};

inline constexpr int kRangeUnit = kChunk * BlockShape<Merge::kInMemory>::kWarps;  // a chunk for each warp
inline constexpr int kLongRange = 4 * kRangeUnit;  // as many blocks as fit are not worth shorter ones
inline constexpr int kMaxSplits = 128;
inline constexpr int kMaxCluster = 8;

// How the cached tokens of a sequence are spread over blocks. The host knows an upper bound of the lengths
// alone; blocks apply the rule to the true length, and those without a share end at once.
struct SplitRule {
  int wanted;   // so many splits keep the memory busy
  int fitting;  // so many run side by side, worth having where their ranges are long
};

struct DecodeArgs {
  const BFloat16* q;
  void* keys;
  void* values;
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

// The cached tokens of one block, and how many blocks have a share: at least one, also of nothing.
struct Range {
  int begin, end, active;
};
template <Merge kMerge>
__device__ __forceinline__ Range range_of(int split, int cached, const SplitRule& rule) {
  const int length = cached > 0 ? cached : 1;
  int share = 0;
  if constexpr (kMerge == Merge::kInCluster) {
    const int chunks = (length + kChunk - 1) / kChunk, blocks = static_cast<int>(gridDim.y);
    share = (chunks + blocks - 1) / blocks * kChunk;
  } else {
    const int splits = splits_of(length, rule);
    share = ((length + splits - 1) / splits + kRangeUnit - 1) / kRangeUnit * kRangeUnit;
  }
  const int begin = split * share;
  return {begin, begin + share < cached ? begin + share : cached, (length + share - 1) / share};
}

// What a block works on. Grid: Hkv * head blocks (neighbours read neighbouring rows of the cache), splits, S.
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

struct MemoryMerge {
  float weights[kHeads][kMaxSplits];  // of all ranges
  int is_last;
};
// What the blocks of the cluster send for the outputs that this block writes.
template <int kHeadDim>
struct ClusterMerge {
  float sums[kHeads * kHeadDim + kMaxCluster];  // [blocks, outputs]
  float maximum[kMaxCluster][kHeads], total[kMaxCluster][kHeads];
};

template <int kHeadDim, Merge kMerge>
struct Shared {
  static constexpr int kWarps = BlockShape<kMerge>::kWarps;
  static constexpr int kRow = kHeadDim + 4;  // fewer warps' stores in one bank
  static_assert(Chunk<kHeadDim>::kBytes >= kHeads * kRow * 4);
  alignas(16) std::byte chunks[kWarps][Chunk<kHeadDim>::kBytes];  // in the end each warp's sums
  alignas(16) Rotation rotations[kHeadDim / 2];
  alignas(16) float query_norm[kHeadDim], key_norm[kHeadDim];
  float maximum[kWarps][kHeads], total[kWarps][kHeads];
  std::conditional_t<kMerge == Merge::kInMemory, MemoryMerge, ClusterMerge<kHeadDim>> merge;

  // f32 [kHeads, kRow] of a warp.
  __device__ __forceinline__ float* sums(int warp) { return reinterpret_cast<float*>(chunks[warp]); }
};

// After the warp's last chunk.
template <int kHeadDim, Merge kMerge>
__device__ __forceinline__ void store_state(Shared<kHeadDim, kMerge>& shared,
                                            const WarpState<kHeadDim>& state, const Lane& lane) {
  const int warp = warp_index();
  __syncwarp();  // all lanes have read their pieces, which lie in the same place
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
      float* to = shared.sums(warp) + head * Shared<kHeadDim, kMerge>::kRow + 64 * e + 8 * lane.group;
      const auto& s = state.sums;
      const int j = 4 * e;
      reinterpret_cast<float4*>(to)[0] = make_float4(s[j][h], s[j][h + 2], s[j + 1][h], s[j + 1][h + 2]);
      reinterpret_cast<float4*>(to)[1] =
          make_float4(s[j + 2][h], s[j + 2][h + 2], s[j + 3][h], s[j + 3][h + 2]);
    }
  }
}

// Merges the warps: take(head, d, sum, maximum, total) for each head and element.
template <int kHeadDim, Merge kMerge, typename Take>
__device__ __forceinline__ void merge_warps(Shared<kHeadDim, kMerge>& shared, int heads, const Take& take) {
  using Block = Shared<kHeadDim, kMerge>;
  constexpr int kWarps = Block::kWarps, kAtOnce = kWarps * kWarp / kHeadDim;
  const int d = static_cast<int>(threadIdx.x) % kHeadDim;
  for (int head = static_cast<int>(threadIdx.x) / kHeadDim; head < heads; head += kAtOnce) {
    float maximum = shared.maximum[0][head];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) maximum = fmaxf(maximum, shared.maximum[warp][head]);
    float sum = 0, total = 0;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      const float weight = exp2_approx(shared.maximum[warp][head] - maximum);
      sum += weight * shared.sums(warp)[head * Block::kRow + d];
      total += weight * shared.total[warp][head];
    }
    take(head, d, sum, maximum, total);
  }
}

// --- Ranges in global memory

template <int kHeadDim>
__device__ __forceinline__ float* partial_of(const DecodeArgs& args, const Work& work, int split) {
  return args.partial + (work.counter * gridDim.y + split) * kHeads * (kHeadDim + 2);
}

template <int kHeadDim>
__device__ __forceinline__ void merge_ranges(const DecodeArgs& args, const Work& work, MemoryMerge& merge,
                                             BFloat16* out, int active) {
  constexpr int kWarps = BlockShape<Merge::kInMemory>::kWarps;
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
      merge.weights[head][split] = weight;
      total += weight * __ldcg(state + kHeads + head);
    }
    const float inverse = 1 / warp_sum(total);
    __syncwarp();
    for (int split = lane_index(); split < active; split += kWarp) merge.weights[head][split] *= inverse;
  }
  __syncthreads();
  constexpr int kAtOnce = kWarps * kWarp / kHeadDim;
  const int d = static_cast<int>(threadIdx.x) % kHeadDim;
  for (int head = static_cast<int>(threadIdx.x) / kHeadDim; head < work.heads; head += kAtOnce) {
    const float* partial = partial_of<kHeadDim>(args, work, 0) + head * kHeadDim + d;
    float sum = 0;
#pragma unroll 8
    for (int split = 0; split < active; ++split)
      sum += merge.weights[head][split] * __ldcg(partial + int64_t{split} * kHeads * (kHeadDim + 2));
    store_f32(out + head * kHeadDim + d, sum);
  }
}

// Whether this block is the last of `active` to come here; it then sees what the others wrote, and the
// counter is zero again.
__device__ __forceinline__ bool comes_last(MemoryMerge& merge, unsigned* counter, int active) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    merge.is_last = atomicAdd(counter, 1u) + 1 == static_cast<unsigned>(active) ? 1 : 0;
    if (merge.is_last != 0) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return merge.is_last != 0;
}

// Writes the output once all ranges are there.
template <int kHeadDim>
__device__ __forceinline__ void finish(const DecodeArgs& args, const Work& work,
                                       Shared<kHeadDim, Merge::kInMemory>& shared, BFloat16* out,
                                       int active) {
  if (active == 1) {
    merge_warps(shared, work.heads, [out](int head, int d, float sum, float, float total) {
      store_f32(out + head * kHeadDim + d, sum / total);
    });
    return;
  }
  float* partial = partial_of<kHeadDim>(args, work, work.split);
  merge_warps(shared, work.heads, [partial](int head, int d, float sum, float maximum, float total) {
    __stcg(partial + head * kHeadDim + d, sum);
    if (d != 0) return;
    __stcg(partial + kHeads * kHeadDim + head, maximum);
    __stcg(partial + kHeads * kHeadDim + kHeads + head, total);
  });
  if (comes_last(shared.merge, args.arrivals + work.counter, active))
    merge_ranges<kHeadDim>(args, work, shared.merge, out, active);
}

// --- Ranges in a cluster: each block writes a slice of the outputs, for which all send it their parts. The
// first arrival at the cluster's barrier lies at the kernel's beginning, since a block that has not started
// can be sent nothing.

template <int kHeadDim>
__device__ __forceinline__ void finish(const DecodeArgs&, const Work& work,
                                       Shared<kHeadDim, Merge::kInCluster>& shared, BFloat16* out, int) {
  auto& merge = shared.merge;
  const int blocks = static_cast<int>(gridDim.y), outputs = work.heads * kHeadDim;
  const int slice = (outputs + blocks - 1) / blocks;
  cluster_wait();
  merge_warps(shared, work.heads, [&](int head, int d, float sum, float maximum, float total) {
    const int output = head * kHeadDim + d, to = output / slice;
    cluster_store(&merge.sums[work.split * slice + output - to * slice], to, sum);
    if (d >= blocks) return;
    cluster_store(&merge.maximum[work.split][head], d, maximum);
    cluster_store(&merge.total[work.split][head], d, total);
  });
  cluster_arrive();
  cluster_wait();
  for (int i = static_cast<int>(threadIdx.x); i < slice; i += static_cast<int>(blockDim.x)) {
    const int output = work.split * slice + i;
    if (output >= outputs) break;
    const int head = output / kHeadDim;
    float maximum = kNoScore, sum = 0, total = 0;
#pragma unroll
    for (int block = 0; block < kMaxCluster; ++block)
      if (block < blocks) maximum = fmaxf(maximum, merge.maximum[block][head]);
#pragma unroll
    for (int block = 0; block < kMaxCluster; ++block) {
      if (block >= blocks) break;
      const float weight = exp2_approx(merge.maximum[block][head] - maximum);
      sum += weight * merge.sums[block * slice + i];
      total += weight * merge.total[block][head];
    }
    store_f32(out + output, sum / total);
  }
}

}  // namespace onggi::cuda::decode

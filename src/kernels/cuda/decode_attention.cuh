// The kernel of decode_attention.cu.
//
// A block has the query heads of one key/value head (up to eight, so that they share what is read) and one
// range of a sequence's cached tokens; its warps take chunks of 16 tokens in turns (decode_tokens.cuh).
#pragma once

#include "kernels/cuda/decode_merge.cuh"

namespace onggi::cuda::decode {

// Where the new tokens are. In the cache, and q is ready for scores:
struct CachedTokens {
  static constexpr bool kAreCached = true;
};
// As they come from the products: heads are yet to be normalised and rotated, and the keys and values to be
// written into their pages. All sequences have one row.
struct NewTokens {
  static constexpr bool kAreCached = false;
  const BFloat16* k;
  const BFloat16* v;
  const float* query_norm;  // f32 [D] or null
  const float* key_norm;
  float epsilon;
  RotaryFrequencies frequencies;
};

// A lane's pieces of a head: elements 32 c + 8 pair .. + 7.
template <int kHeadDim>
__device__ __forceinline__ void load_head(uint4 (&pieces)[kHeadDim / 32], const BFloat16* head,
                                          const Lane& lane) {
#pragma unroll
  for (int c = 0; c < kHeadDim / 32; ++c)
    pieces[c] = *reinterpret_cast<const uint4*>(head + 32 * c + 8 * lane.pair);
}

// Norm (null: none) and rotation; bf16 in, elements of the cache out. Both halves of a pair that is rotated
// are this lane's.
template <typename Element, int kHeadDim>
__device__ __forceinline__ void turn_head(uint4 (&pieces)[kHeadDim / 32], const float* norm, float epsilon,
                                          const Rotation* rotations, const Lane& lane) {
  constexpr int kPieces = kHeadDim / 32, kHalf = kPieces / 2;
  float x[kPieces][8];
#pragma unroll
  for (int c = 0; c < kPieces; ++c) unpack_bf16_8(pieces[c], x[c]);
  if (norm != nullptr) {
    float squares = 0;
#pragma unroll
    for (int c = 0; c < kPieces; ++c)
#pragma unroll
      for (const float value : x[c]) squares += value * value;
    const float inverse_rms = 1.0f / sqrtf(warp_sum<4>(squares) / kHeadDim + epsilon);
#pragma unroll
    for (int c = 0; c < kPieces; ++c) {
      float weight[8];
      load_8(norm + 32 * c + 8 * lane.pair, weight);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[c][i] *= inverse_rms * weight[i];
    }
  }
#pragma unroll
  for (int c = 0; c < kHalf; ++c) {
    float turns[16];  // cosine and sine in turns
    const auto* of_lane = reinterpret_cast<const float*>(rotations + 32 * c + 8 * lane.pair);
    load_8(of_lane, reinterpret_cast<float(&)[8]>(turns[0]));
    load_8(of_lane + 8, reinterpret_cast<float(&)[8]>(turns[8]));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float first = x[c][i], second = x[c + kHalf][i];
      x[c][i] = first * turns[2 * i] - second * turns[2 * i + 1];
      x[c + kHalf][i] = second * turns[2 * i] + first * turns[2 * i + 1];
    }
  }
#pragma unroll
  for (int c = 0; c < kPieces; ++c) pieces[c] = CacheElement<Element>::pack_8(x[c]);
}

// Where a warp's chunks lie. Page numbers are in the warp's lanes, so that no chunk waits for the table:
// those of the warp's next 32 chunks, and, where kReadsAhead, of the sequence's first 32 pages, read beside
// its length.
template <int kStep, bool kReadsAhead>
struct PageWindow {
  const int32_t* pages;
  int shift, first = 0, end = 0;
  int near = 0, far = 0, far_from = -1;

  __device__ __forceinline__ PageWindow(const int32_t* table, int64_t table_pages, int page_shift)
      : pages(table), shift(page_shift) {
    if (kReadsAhead && lane_index() < table_pages) near = pages[lane_index()];
  }
  __device__ __forceinline__ void begin(int token, int end_token) {
    first = token;
    end = end_token;
  }
  __device__ __forceinline__ int64_t row_of(int64_t page, int token) const {
    return (page << shift) + (token & ((1 << shift) - 1));
  }
  // Row of any token.
  __device__ __forceinline__ int64_t row_anywhere(int token) const {
    const int index = token >> shift;
    if (kReadsAhead && index < kWarp) return row_of(__shfl_sync(kAllLanes, near, index), token);
    return row_of(pages[index], token);
  }
  // Row where the warp's chunk of `token` begins. Chunks come in order.
  __device__ __forceinline__ int64_t row(int token) {
    const int index = token >> shift;
    if (kReadsAhead && index < kWarp) return row_of(__shfl_sync(kAllLanes, near, index), token);
    const int number = (token - first) / kStep;
    if (number / kWarp != far_from) {
      far_from = number / kWarp;
      const int of_lane = first + (far_from * kWarp + lane_index()) * kStep;
      far = of_lane < end ? pages[of_lane >> shift] : 0;
    }
    return row_of(__shfl_sync(kAllLanes, far, number % kWarp), token);
  }
};

// The new token of the warp's sequence: into its page, and into the warp's state.
template <typename Element, int kHeadDim>
__device__ __forceinline__ void take_new_token(WarpState<kHeadDim>& state, OneToken<kHeadDim>& token,
                                               const uint4 (&query)[kHeadDim / 32], float scale,
                                               const Lane& lane) {
  float scores[4];
  score<Element, kHeadDim>(scores, token, query);
  take_scores(state, scores, scale, lane, 1);
  add_values<Element, kHeadDim>(state, token, scores);
}
template <typename Element, int kHeadDim>
__device__ __forceinline__ void store_new_token(const DecodeArgs& args, const OneToken<kHeadDim>& token,
                                                int64_t cache_offset, const Lane& lane) {
  Element* key = static_cast<Element*>(args.keys) + cache_offset + 8 * lane.pair;
  Element* value = static_cast<Element*>(args.values) + cache_offset + 8 * lane.group;
  if (lane.group == 0) {
#pragma unroll
    for (int c = 0; c < kHeadDim / 32; ++c) *reinterpret_cast<uint4*>(key + 32 * c) = token.keys[c];
  }
  if (lane.pair == 0) {
#pragma unroll
    for (int e = 0; e < kHeadDim / 64; ++e) *reinterpret_cast<uint4*>(value + 64 * e) = token.values[e];
  }
}

// Where the new tokens are not cached the table and the cached tokens are read, and copies of the first
// chunks begun, while the kernel that computes q, k and v still runs.
template <typename Element, int kHeadDim, typename Tokens, Merge kMerge>
__global__ void __launch_bounds__(BlockShape<kMerge>::kWarps* kWarp, BlockShape<kMerge>::kPerMultiprocessor)
    decode_attention_kernel(const __grid_constant__ DecodeArgs args, const __grid_constant__ Tokens tokens) {
  constexpr int kWarps = BlockShape<kMerge>::kWarps, kStep = kWarps * kChunk, kPieces = kHeadDim / 32;
  auto& shared = *dynamic_shared<Shared<kHeadDim, kMerge>>();
  grid_dependency_launch();
  if constexpr (Tokens::kAreCached) grid_dependency_wait();
  if constexpr (kMerge == Merge::kInCluster) cluster_arrive();
  const Work work = work_of_block(args);
  // The norms' weights of a column, which nothing else waits for: read first.
  static_assert(kHeadDim <= kWarps * kWarp);
  const int column_of_thread = static_cast<int>(threadIdx.x);
  float query_norm = 0, key_norm = 0;
  if constexpr (!Tokens::kAreCached) {
    if (column_of_thread < kHeadDim && tokens.query_norm != nullptr)
      query_norm = tokens.query_norm[column_of_thread];
    if (column_of_thread < kHeadDim && tokens.key_norm != nullptr)
      key_norm = tokens.key_norm[column_of_thread];
  }
  // Read together, since what is read next depends on them.
  constexpr bool kReadsAhead = kMerge == Merge::kInCluster;
  PageWindow<kStep, kReadsAhead> window(args.pages + work.sequence * args.page_stride, args.page_stride,
                                        args.page_shift);
  const int rows = args.rows[work.sequence], past = args.past[work.sequence];
  const int64_t out_row = args.first_row[work.sequence];
  if (Tokens::kAreCached && rows != 1) return;
  const int cached = past + (Tokens::kAreCached ? 1 : 0);
  const Range range = range_of<kMerge>(work.split, cached, args.rule);
  if (kMerge == Merge::kInMemory && work.split >= range.active) return;

  const Lane lane;
  const Chunk<kHeadDim> chunk(shared.chunks[warp_index()]);
  const int row_stride = args.kv_heads * kHeadDim, column = work.kv_head * kHeadDim;
  const int first = range.begin + warp_index() * kChunk;
  window.begin(first, range.end);
  const auto* keys = static_cast<const Element*>(args.keys) + column;
  const auto* values = static_cast<const Element*>(args.values) + column;
  if (first < range.end) {
    const int64_t offset = window.row(first) * row_stride;
    fetch_keys(chunk, keys + offset, row_stride, lane, range.end - first);
    cp_async_commit();
    fetch_values(chunk, values + offset, row_stride, lane, range.end - first);
    cp_async_commit();
  }

  WarpState<kHeadDim> state;
  uint4 query[kPieces];
  const BFloat16* q = args.q + (out_row * args.kv_heads * args.group + work.out_head) * kHeadDim;
  const auto load_query = [&] {
#pragma unroll
    for (auto& piece : query) piece = make_uint4(0, 0, 0, 0);
    if (lane.group < work.heads) load_head<kHeadDim>(query, q + lane.group * kHeadDim, lane);
  };
  if constexpr (Tokens::kAreCached) {
    load_query();
#pragma unroll
    for (auto& piece : query) piece = CacheElement<Element>::from_bf16(piece);
  } else {
    if (column_of_thread < kHeadDim / 2)
      shared.rotations[column_of_thread] = rotation_of(tokens.frequencies.turns[column_of_thread], past);
    if (column_of_thread < kHeadDim) {
      shared.query_norm[column_of_thread] = query_norm;
      shared.key_norm[column_of_thread] = key_norm;
    }
    // It is the turn of this warp after the last chunk.
    const int chunks = (range.end - range.begin + kChunk - 1) / kChunk;
    const bool has_new = work.split == range.active - 1 && warp_index() == chunks % kWarps;
    const int64_t new_row = has_new ? window.row_anywhere(past) : 0;
    __syncthreads();
    grid_dependency_wait();
    OneToken<kHeadDim> token;
    load_query();
    const int64_t from = (out_row * args.kv_heads + work.kv_head) * kHeadDim;
    if (has_new) load_head<kHeadDim>(token.keys, tokens.k + from, lane);
    turn_head<Element, kHeadDim>(query, tokens.query_norm != nullptr ? shared.query_norm : nullptr,
                                 tokens.epsilon, shared.rotations, lane);
    if (has_new) {
#pragma unroll
      for (int e = 0; e < kHeadDim / 64; ++e)
        token.values[e] = *reinterpret_cast<const uint4*>(tokens.v + from + 64 * e + 8 * lane.group);
      turn_head<Element, kHeadDim>(token.keys, tokens.key_norm != nullptr ? shared.key_norm : nullptr,
                                   tokens.epsilon, shared.rotations, lane);
#pragma unroll
      for (auto& piece : token.values) piece = CacheElement<Element>::from_bf16(piece);
      if (work.head_block == 0) store_new_token<Element>(args, token, new_row * row_stride + column, lane);
      take_new_token<Element>(state, token, query, args.scale, lane);
    }
  }

  for (int from = first; from < range.end; from += kStep) {
    const int valid = range.end - from, next = from + kStep;
    const int64_t offset = next < range.end ? window.row(next) * row_stride : 0;
    float scores[4];
    cp_async_wait<1>();
    score<Element, kHeadDim>(scores, chunk, query);
    if (next < range.end) fetch_keys(chunk, keys + offset, row_stride, lane, range.end - next);
    cp_async_commit();
    take_scores(state, scores, args.scale, lane, valid);
    cp_async_wait<1>();
    add_values<Element, kHeadDim>(state, chunk, scores);
    if (next < range.end) fetch_values(chunk, values + offset, row_stride, lane, range.end - next);
    cp_async_commit();
  }

  store_state(shared, state, lane);
  __syncthreads();
  BFloat16* out = args.out + out_row * args.out_stride + work.out_head * kHeadDim;
  finish<kHeadDim>(args, work, shared, out, range.active);
}

}  // namespace onggi::cuda::decode

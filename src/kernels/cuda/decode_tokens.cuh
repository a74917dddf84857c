// What one warp does with cached tokens while decoding: up to eight query heads of one key/value head over
// chunks of 16 tokens. Keys and values go from global to shared memory in 16-byte pieces that are fragments
// of mma as they come, each copied by the lane that will multiply it, so that no lane waits for another:
//   scores^T [tokens, heads] = K [tokens, D] Q^T: the order of the elements within D does not matter as long
//     as K and Q agree, so a lane's 16 bytes serve as the A of two mma;
//   out^T [D, heads] = V^T [D, tokens] P^T: the order of D in the output does not matter either, so a lane
//     takes 16 bytes of four tokens and pairs the tokens within its registers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/paged_cache.cuh"

namespace onggi::cuda::decode {

inline constexpr int kHeads = 8;   // n of mma
inline constexpr int kChunk = 16;  // tokens

// Where this lane's pieces of a chunk lie, in elements from the chunk's first row of this head.
struct Lane {
  int group, pair;
  __device__ __forceinline__ Lane() : group(lane_index() / 4), pair(lane_index() % 4) {}
  __device__ __forceinline__ int key_token(int i) const { return group + 8 * i; }
  __device__ __forceinline__ int value_token(int i) const { return 2 * pair + (i & 1) + 8 * (i >> 1); }
};

// A lane's pieces of a warp's chunk, in shared memory.
template <int kHeadDim>
struct Chunk {
  static constexpr int kKeys = kHeadDim / 32, kValues = kHeadDim / 64;
  static constexpr int kBytes = (2 * kKeys + 4 * kValues) * kWarp * 16;  // of a warp
  uint4* at;

  __device__ __forceinline__ explicit Chunk(std::byte* of_warp)
      : at(reinterpret_cast<uint4*>(of_warp) + lane_index()) {}
  // Elements 32 c + 8 pair .. + 7 of token key_token(i).
  __device__ __forceinline__ uint4& key(int c, int i) const { return at[(2 * c + i) * kWarp]; }
  // Elements 64 e + 8 group .. + 7 of token value_token(i).
  __device__ __forceinline__ uint4& value(int e, int i) const { return at[(2 * kKeys + 4 * e + i) * kWarp]; }
};

// The same of a chunk that has one token alone.
template <int kHeadDim>
struct OneToken {
  uint4 keys[kHeadDim / 32], values[kHeadDim / 64];
  __device__ __forceinline__ const uint4& key(int c, int) const { return keys[c]; }
  __device__ __forceinline__ const uint4& value(int e, int) const { return values[e]; }
};

// Streaming softmax of the block's heads over the tokens that one warp has seen.
template <int kHeadDim>
struct WarpState {
  float sums[kHeadDim / 16][4] = {};  // out^T before the division; see Chunk and store_state for the order
  float maximum[2] = {kNoScore, kNoScore};  // of heads 2 pair, 2 pair + 1
  float total[2] = {0, 0};                  // of this lane's tokens
};

// Both become a group of copies. What lies beyond the sequence may be anything, NaN too, and must not meet
// the zeros of the probabilities: its last token stands in for it.
template <typename Element, int kHeadDim>
__device__ __forceinline__ void fetch_keys(const Chunk<kHeadDim>& chunk, const Element* keys, int row_stride,
                                           const Lane& lane, int valid) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = lane.key_token(i) < valid ? lane.key_token(i) : valid - 1;
    const Element* row = keys + int64_t{token} * row_stride + 8 * lane.pair;
#pragma unroll
    for (int c = 0; c < Chunk<kHeadDim>::kKeys; ++c) cp_async_16(&chunk.key(c, i), row + 32 * c);
  }
}

template <typename Element, int kHeadDim>
__device__ __forceinline__ void fetch_values(const Chunk<kHeadDim>& chunk, const Element* values,
                                             int row_stride, const Lane& lane, int valid) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = lane.value_token(i) < valid ? lane.value_token(i) : valid - 1;
    const Element* row = values + int64_t{token} * row_stride + 8 * lane.group;
#pragma unroll
    for (int e = 0; e < Chunk<kHeadDim>::kValues; ++e) cp_async_16(&chunk.value(e, i), row + 64 * e);
  }
}

__device__ __forceinline__ uint32_t word_of(const uint4& piece, int i) {
  return i == 0 ? piece.x : i == 1 ? piece.y : i == 2 ? piece.z : piece.w;
}

// scores[0], [1]: token `group` with heads 2 pair, 2 pair + 1; [2], [3]: token group + 8.
template <typename Element, int kHeadDim, typename Tokens>
__device__ __forceinline__ void score(float (&scores)[4], const Tokens& tokens,
                                      const uint4 (&query)[kHeadDim / 32]) {
  float other[4] = {0, 0, 0, 0};  // a second chain of sums, since each mma waits for the one before
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] = 0;
#pragma unroll
  for (int c = 0; c < kHeadDim / 32; ++c) {
    const uint4 k0 = tokens.key(c, 0), k1 = tokens.key(c, 1);
    const uint32_t low[4] = {k0.x, k1.x, k0.y, k1.y}, high[4] = {k0.z, k1.z, k0.w, k1.w};
    CacheElement<Element>::mma(scores, low, query[c].x, query[c].y);
    CacheElement<Element>::mma(other, high, query[c].z, query[c].w);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] += other[i];
}

// Turns scores into probabilities over the new maximum and brings the state to it.
template <int kHeadDim>
__device__ __forceinline__ void take_scores(WarpState<kHeadDim>& state, float (&scores)[4], float scale,
                                            const Lane& lane, int valid) {
  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    scores[h] = lane.group < valid ? scores[h] * scale : kNoScore;
    scores[h + 2] = lane.group + 8 < valid ? scores[h + 2] * scale : kNoScore;
    float maximum = fmaxf(scores[h], scores[h + 2]);
#pragma unroll
    for (int offset = 4; offset < kWarp; offset *= 2)
      maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, offset));
    maximum = fmaxf(maximum, state.maximum[h]);
    factor[h] = exp2_approx(state.maximum[h] - maximum);
    state.maximum[h] = maximum;
    scores[h] = exp2_approx(scores[h] - maximum);
    scores[h + 2] = exp2_approx(scores[h + 2] - maximum);
    state.total[h] = state.total[h] * factor[h] + scores[h] + scores[h + 2];
  }
  if (__any_sync(kAllLanes, factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
    for (auto& sums : state.sums) {
      sums[0] *= factor[0], sums[1] *= factor[1];
      sums[2] *= factor[0], sums[3] *= factor[1];
    }
  }
}

template <typename Element, int kHeadDim, typename Tokens>
__device__ __forceinline__ void add_values(WarpState<kHeadDim>& state, const Tokens& tokens,
                                           const float (&probabilities)[4]) {
  const uint32_t b0 = movmatrix_trans(CacheElement<Element>::pack(probabilities[0], probabilities[1]));
  const uint32_t b1 = movmatrix_trans(CacheElement<Element>::pack(probabilities[2], probabilities[3]));
#pragma unroll
  for (int e = 0; e < kHeadDim / 64; ++e) {
    const uint4 v0 = tokens.value(e, 0), v1 = tokens.value(e, 1);
    const uint4 v8 = tokens.value(e, 2), v9 = tokens.value(e, 3);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t w0 = word_of(v0, j), w1 = word_of(v1, j), w8 = word_of(v8, j), w9 = word_of(v9, j);
      const uint32_t a[4] = {__byte_perm(w0, w1, 0x5410), __byte_perm(w0, w1, 0x7632),
                             __byte_perm(w8, w9, 0x5410), __byte_perm(w8, w9, 0x7632)};
      CacheElement<Element>::mma(state.sums[4 * e + j], a, b0, b1);
    }
  }
}

}  // namespace onggi::cuda::decode

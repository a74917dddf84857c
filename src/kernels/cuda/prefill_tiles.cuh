// What one warp does with a tile of queries and a step of keys and values in shared memory.
#pragma once

#include <cstdint>

#include "kernels/cuda/paged_cache.cuh"

namespace onggi::cuda::prefill {

inline constexpr int kRows = 128;  // of a tile, 32 per warp
inline constexpr int kKeys = 64;   // cached tokens of a step

// Shared memory: 16-bit rows of a head, their 16-byte pieces swapped so that ldmatrix meets no bank twice:
// piece c of row r lies where c XOR (r % 8) would. Two buffers of keys and values.
template <int kHeadDim>
struct Layout {
  static constexpr int kPieces = kHeadDim / 8;
  static constexpr int kRowBytes = kHeadDim * 2;
  static constexpr int kQueryBytes = kRows * kRowBytes;
  static constexpr int kTileBytes = kKeys * kRowBytes;
  static constexpr int kBytes = kQueryBytes + 4 * kTileBytes;
  static __device__ __forceinline__ int offset(int row, int piece) {
    return row * kRowBytes + (piece ^ (row & 7)) * 16;
  }
  static __device__ __forceinline__ int keys(int buffer) { return kQueryBytes + 2 * buffer * kTileBytes; }
  static __device__ __forceinline__ int values(int buffer) { return keys(buffer) + kTileBytes; }
};

// Where this lane's ldmatrix addresses lie in blocks of 16 x 16 that begin at a multiple of 8 rows. The piece
// of block b of 16 columns is that of block 0 XOR 2 b: 32 b bytes.
template <int kHeadDim>
struct LaneOffsets {
  // A of mma, and with _trans b0, b1 of two neighbouring blocks of 8 columns, the rows being mma's k.
  int rows;
  // b0, b1 of two neighbouring blocks of 8 rows, the columns being mma's k.
  int columns;
  __device__ __forceinline__ LaneOffsets() {
    const int lane = lane_index();
    rows = Layout<kHeadDim>::offset(lane & 15, lane >> 4);
    columns = Layout<kHeadDim>::offset((lane & 7) + (lane >> 4) * 8, lane >> 3 & 1);
  }
};

template <int kHeadDim>
struct WarpState {
  float sums[2][kHeadDim / 8][4] = {};  // [16 rows][8 columns] as C of mma
  // Of rows group, group + 8 of each 16; the totals are of this lane's keys alone.
  float maximum[2][2] = {{kNoScore, kNoScore}, {kNoScore, kNoScore}};
  float total[2][2] = {};
};

template <typename Element, int kHeadDim>
__device__ __forceinline__ void score(float (&scores)[2][kKeys / 8][4], const unsigned char* queries,
                                      const unsigned char* keys, const LaneOffsets<kHeadDim>& lane) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[m][n][i] = 0;
#pragma unroll
  for (int block = 0; block < kHeadDim / 16; ++block) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m)
      ldmatrix_x4(a[m], queries + m * 16 * Layout<kHeadDim>::kRowBytes + (lane.rows ^ 32 * block));
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, keys + n * 8 * Layout<kHeadDim>::kRowBytes + (lane.columns ^ 32 * block));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        CacheElement<Element>::mma(scores[m][n], a[m], b[0], b[1]);
        CacheElement<Element>::mma(scores[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// visible[row]: how many cached tokens a row of the warp sees.
__device__ __forceinline__ void hide(float (&scores)[2][kKeys / 8][4], const int* visible, int first_key) {
  const int first = first_key + 2 * (lane_index() % 4);
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int here = visible[m * 16 + r * 8 + lane_index() / 4] - first;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          if (8 * n + i >= here) scores[m][n][2 * r + i] = kNoScore;
    }
}

// Turns scores into probabilities over the new maxima and brings the state to them.
template <int kHeadDim>
__device__ __forceinline__ void take_scores(WarpState<kHeadDim>& state, float (&scores)[2][kKeys / 8][4],
                                            float scale) {
  float factor[2][2];
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float maximum = scores[m][0][2 * r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
        maximum = fmaxf(maximum, fmaxf(scores[m][n][2 * r], scores[m][n][2 * r + 1]));
      maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, 1));
      maximum = fmaxf(maximum, __shfl_xor_sync(kAllLanes, maximum, 2));
      maximum = fmaxf(state.maximum[m][r], maximum * scale);
      factor[m][r] = exp2_approx(state.maximum[m][r] - maximum);
      state.maximum[m][r] = maximum;
      float total = state.total[m][r] * factor[m][r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          scores[m][n][i] = exp2_approx(fmaf(scores[m][n][i], scale, -maximum));
          total += scores[m][n][i];
        }
      state.total[m][r] = total;
    }
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    if (!__any_sync(kAllLanes, factor[m][0] != 1 || factor[m][1] != 1)) continue;
#pragma unroll
    for (auto& sums : state.sums[m]) {
      sums[0] *= factor[m][0], sums[1] *= factor[m][0];
      sums[2] *= factor[m][1], sums[3] *= factor[m][1];
    }
  }
}

template <typename Element, int kHeadDim>
__device__ __forceinline__ void add_values(WarpState<kHeadDim>& state,
                                           const float (&probabilities)[2][kKeys / 8][4],
                                           const unsigned char* values, const LaneOffsets<kHeadDim>& lane) {
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    uint32_t a[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const auto &left = probabilities[m][2 * step], &right = probabilities[m][2 * step + 1];
      a[m][0] = CacheElement<Element>::pack(left[0], left[1]);
      a[m][1] = CacheElement<Element>::pack(left[2], left[3]);
      a[m][2] = CacheElement<Element>::pack(right[0], right[1]);
      a[m][3] = CacheElement<Element>::pack(right[2], right[3]);
    }
#pragma unroll
    for (int block = 0; block < kHeadDim / 16; ++block) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, values + step * 16 * Layout<kHeadDim>::kRowBytes + (lane.rows ^ 32 * block));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        CacheElement<Element>::mma(state.sums[m][2 * block], a[m], b[0], b[1]);
        CacheElement<Element>::mma(state.sums[m][2 * block + 1], a[m], b[2], b[3]);
      }
    }
  }
}

}  // namespace onggi::cuda::prefill

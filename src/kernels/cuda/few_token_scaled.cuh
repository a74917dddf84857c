// Products of one or two tokens in which weights stay what is stored: sums are scaled instead.
//
// A product of tensor cores has eight columns for tokens. One or two tokens leave room to keep apart what
// the four lanes of a group (g, p) bring, each of which has blocks of its own (placed_layout.h): column 2 p +
// t has token t's activations where they meet lane p's weights, and zeros elsewhere. So the sums of a block
// come to the lane that has its scales (d[2 r + t] of row g + 8 r), which are applied once for a block
// instead of once for a weight; and weights need not become numbers of their own, only some that activations
// and sums can make up for: step * (n - origin), n in f16.
#pragma once

#include "kernels/cuda/few_token_small.h"
#include "kernels/cuda/few_token_weights.cuh"

namespace onggi::cuda {

inline constexpr int kScaledMostTokens = 2;
// What lanes read where other lanes have activations: of a tile.
inline constexpr int kScaledZeroBytes = 2 * kTileColumns;

// Of the lane's columns: row g + 8 r, token t at 2 r + t.
struct ScaledSums {
  float of[4];
};

// Where a lane's operands of activations are.
struct ScaledOperands {
  const unsigned char* first;
  int tile_bytes;
  // Activations of token t at rows + t * row_bytes.
  __device__ __forceinline__ ScaledOperands(const unsigned char* rows, int row_bytes,
                                            const unsigned char* zeros, int tokens) {
    const int group = lane_index() / 4, pair = lane_index() % 4, token = group % 2;
    const bool has = group / 2 == pair && token < tokens;
    first = has ? rows + token * row_bytes + 16 * pair : zeros;
    tile_bytes = has ? 2 * kTileColumns : 0;
  }
  __device__ __forceinline__ const unsigned char* at(int column_tile) const {
    return first + column_tile * tile_bytes;
  }
};

// kIsThere     whether there are such products for a type of weights; then
//   kFactor        what sums lack in the end
//   kBlockColumns  columns for each of which the sum of its activations is wanted, over kFactor; 0: none
//   arrange        eight neighbouring activations as the operands need them
//   sum            of arranged ones, as they were before
//   Tile, load     a tile in registers: its memory is free at once
//   multiply       adds the product of one
//   kStep          tiles, side by side, that a warp takes at a time, so that it waits less
template <typename Weights>
struct ScaledTile {
  static constexpr bool kIsThere = false;
  static constexpr int kBlockColumns = 0, kStep = 1;
  static constexpr float kFactor = 1;
  static __device__ __forceinline__ void arrange(float (&)[8]) {}
};

template <typename Format>
struct ScaledTile<PlacedWeights<Format>> {
  static constexpr bool kIsThere = true;
  static constexpr int kGroups = Format::kGroups, kBlockColumns = 32 / kGroups;
  static constexpr int kStep = Format::kBytes <= 2816 ? 2 : 1;
  static constexpr float kFactor = Format::kSumStep;

  static __device__ __forceinline__ void arrange(float (&values)[8]) { Format::arrange(values); }
  static __device__ __forceinline__ float sum(const float (&values)[8]) { return Format::sum(values); }

  struct Tile {
    typename Format::Unit units[4];
    Scale scales[2][2][kGroups];  // of halves and rows
  };
  static __device__ __forceinline__ Tile load(const WeightTables&, const unsigned char* slot) {
    Tile tile;
#pragma unroll
    for (int u = 0; u < 4; ++u) tile.units[u] = Format::unit(slot, lane_index(), u);
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        Format::scales(slot, lane_index() / 4 + 8 * r, lane_index() % 4, h, tile.scales[h][r]);
    return tile;
  }

  static __device__ __forceinline__ void multiply(const WeightTables&, const Tile& tile,
                                                  const unsigned char* x, const float* block_sums, int stride,
                                                  ScaledSums& sums) {
    constexpr int kChains = 2 / kGroups;  // that do not wait for each other
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const float* of_block = block_sums + kGroups * (2 * (lane_index() % 4) + h) + group;
        const float block[2] = {of_block[0], of_block[stride]};
        float d[kChains][4] = {};
        if constexpr (Format::kSumOrigin != 0) {
#pragma unroll
          for (int i = 0; i < 4; ++i) d[0][i] = -Format::kSumOrigin * Format::kSumStep * block[i % 2];
        }
#pragma unroll
        for (int j = 4 / kGroups * group; j < 4 / kGroups * (group + 1); ++j) {
          uint32_t a[2][4];
#pragma unroll
          for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              a[i / 2][2 * (i % 2) + r] = Format::sum_pair(tile.units[2 * h + j / 2], r, 4 * (j % 2) + i);
          const uint4 b = *reinterpret_cast<const uint4*>(x + 256 * h + 64 * j);
          mma_m16n8k16_f16(d[0], a[0], b.x, b.y);
          mma_m16n8k16_f16(d[kChains - 1], a[1], b.z, b.w);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Scale& scale = tile.scales[h][i / 2][group];
          const float products = kChains == 2 ? d[0][i] + d[1][i] : d[0][i];
          sums.of[i] = fmaf(scale.scale, products, sums.of[i]);
          if constexpr (Format::kHasMinimum) sums.of[i] = fmaf(-scale.minimum, block[i % 2], sums.of[i]);
        }
      }
  }
};

template <>
struct ScaledTile<Nf4Weights> {
  static constexpr bool kIsThere = true;
  static constexpr int kBlockColumns = 0, kStep = 2;
  static constexpr float kFactor = 1;
  static __device__ __forceinline__ void arrange(float (&)[8]) {}

  struct Tile {
    uint4 bits[2][2];  // of halves and rows
    float absmax[2];
  };
  static __device__ __forceinline__ Tile load(const WeightTables& tables, const unsigned char* slot) {
    Tile tile;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      tile.absmax[r] = Nf4Weights::absmax(tables, slot, r);
#pragma unroll
      for (int h = 0; h < 2; ++h) tile.bits[h][r] = Nf4Weights::bits(slot, r, h);
    }
    return tile;
  }

  static __device__ __forceinline__ void multiply(const WeightTables& tables, const Tile& tile,
                                                  const unsigned char* x, const float*, int,
                                                  ScaledSums& sums) {
    float d[2][4] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t a[2][4];
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int i = 0; i < 4; ++i)
            a[i / 2][2 * (i % 2) + r] = Nf4Weights::codes(tables, Nf4Weights::word(tile.bits[h][r], j), i);
        const uint4 b = *reinterpret_cast<const uint4*>(x + 256 * h + 64 * j);
        mma_m16n8k16_f16(d[0], a[0], b.x, b.y);
        mma_m16n8k16_f16(d[1], a[1], b.z, b.w);
      }
#pragma unroll
    for (int i = 0; i < 4; ++i) sums.of[i] = fmaf(tile.absmax[i / 2], d[0][i] + d[1][i], sums.of[i]);
  }
};

// The sums of a token's activations in blocks of the slice.
__device__ __forceinline__ float* block_sums(const FewTokenSmallPlan& plan, unsigned char* shared,
                                             int token) {
  return reinterpret_cast<float*>(shared + plan.block_sums) + token * plan.block_sums_stride;
}
// Adds up `packed`, the activations of columns 8 eight .. + 7 of the slice, with those of the neighbouring
// lanes, and leaves the sums of whole blocks. All lanes of the warp take part.
template <typename Weights>
__device__ __forceinline__ void leave_block_sum(const uint4& packed, int eight, float* sums) {
  constexpr int kEights = ScaledTile<Weights>::kBlockColumns / 8;
  if constexpr (kEights > 0) {
    float values[8];
    unpack_f16_8(packed, values);
    float sum = ScaledTile<Weights>::sum(values) * (1.0f / ScaledTile<Weights>::kFactor);
    sum = warp_sum<kEights>(sum);
    if (eight % kEights == 0) sums[eight / kEights] = sum;
  }
}

}  // namespace onggi::cuda

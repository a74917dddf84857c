// Products of one or two tokens in which weights stay what is stored: sums are scaled instead.
//
// A product of tensor cores has eight columns for tokens. One or two tokens leave room to keep apart what
// the four lanes of a group (g, p) bring, each of which has blocks of its own (placed_layout.h): columns 2 p
// and 2 p + 1 have activations where they meet lane p's weights, and zeros elsewhere. So the sums of a block
// come to the lane that has its scales, which are applied once for a block instead of once for a weight.
//
// Weights in tiles are multiplied as bytes, with activations of 16 bits: columns 2 p and 2 p + 1 have the
// upper and the lower byte of a token's. Their unit is the block's, largest magnitude / kMostInteger, so that
// they are as exact as f16 but for those below a 16th of the largest; the sums are exact integers. The tokens
// follow each other. NF4's weights are f16 numbers of a table, and column 2 p + t has token t as f16, in
// powers of two of the lane's block.
#pragma once

#include "kernels/cuda/few_token_small.h"
#include "kernels/cuda/few_token_weights.cuh"

namespace onggi::cuda {

inline constexpr int kScaledMostTokens = 2;
// What lanes read where other lanes have activations: of a tile, and to be in other banks.
inline constexpr int kScaledZeroBytes = 2 * kTileColumns + 64;

// Of the lane's blocks: row g + 8 r, token t at 2 r + t.
struct ScaledSums {
  float of[4];
};

// What a block's activations are with: their unit (over the factor of the weights' bytes), and what the sums
// of the products lack: their sum, times the origin where the weights have one instead of a minimum.
struct BlockFactors {
  float unit, sum;
};
// Activations as integers have at most this magnitude: 127 for the upper byte.
inline constexpr float kMostInteger = 127 * 256;

// Where a lane's operands of activations are in shared memory.
struct ScaledOperands {
  const unsigned char* first;
  int tile_bytes;       // to the next tile's
  const float* blocks;  // BlockFactors of the lane's p in the first tile, if any
  int tile_blocks, token_blocks;
  int token_bytes, tokens;
};

// What a type of weights has for such products:
//   kIsThere       whether they are there
//   kBlockColumns  columns that share BlockFactors; 0: none
//   operands       where the lane's activations are
//   Tile, load     a tile in registers: its memory is free at once
//   multiply       adds the product of one
//   kStep          tiles, side by side, that a warp takes at a time, so that it waits less
template <typename Weights>
struct ScaledTile {
  static constexpr bool kIsThere = false;
  static constexpr int kBlockColumns = 0, kStep = 1;
};

// Activations [token][tile][lane p][upper, lower][h][unit][word s] of 4 bytes, in the order of
// byte_of_column; BlockFactors [token][tile][lane p][h][group].
template <typename Format>
struct ScaledTile<PlacedWeights<Format>> {
  static constexpr bool kIsThere = true;
  static constexpr int kGroups = Format::kGroups, kBlockColumns = 32 / kGroups;
  static constexpr int kStep = Format::kBytes <= 2816 ? 2 : 1;
  static constexpr int kTileBlocks = kTileColumns / kBlockColumns;

  static __device__ __forceinline__ ScaledOperands operands(const FewTokenSmallPlan& plan,
                                                            unsigned char* shared, int tokens) {
    const int group = lane_index() / 4, pair = lane_index() % 4;
    const bool has = group / 2 == pair;
    // What is 0 lies in banks of its own.
    const unsigned char* first =
        has ? shared + plan.activations + 128 * pair + 64 * (group % 2) : shared + plan.zeros + 32;
    return {first,
            has ? 2 * kTileColumns : 0,
            reinterpret_cast<const float*>(shared + plan.block_factors) + 2 * kTileBlocks / 4 * pair,
            2 * kTileBlocks,
            plan.block_factors_stride,
            has ? plan.row_bytes : 0,
            tokens};
  }

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
                                                  const ScaledOperands& x, int column, ScaledSums& sums) {
    const unsigned char* of_tile = x.first + column * x.tile_bytes;
    const float* blocks = x.blocks + column * x.tile_blocks;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      uint32_t bytes[2][2][4];  // of units, rows and words
#pragma unroll
      for (int u = 0; u < 2; ++u)
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int s = 0; s < 4; ++s) bytes[u][r][s] = Format::bytes(tile.units[2 * h + u], r, s);
#pragma unroll
      for (int token = 0; token < kScaledMostTokens; ++token) {
        if (token >= x.tokens) break;
        int32_t d[kGroups][4] = {};
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          const uint4 b = *reinterpret_cast<const uint4*>(of_tile + token * x.token_bytes + 32 * h + 16 * u);
          const uint32_t first[4] = {bytes[u][0][0], bytes[u][1][0], bytes[u][0][1], bytes[u][1][1]};
          const uint32_t second[4] = {bytes[u][0][2], bytes[u][1][2], bytes[u][0][3], bytes[u][1][3]};
          mma_m16n8k32_u8_s8(d[u % kGroups], first, b.x, b.y);
          mma_m16n8k32_u8_s8(d[u % kGroups], second, b.z, b.w);
        }
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          const float2 factors =
              *reinterpret_cast<const float2*>(blocks + token * x.token_blocks + 2 * (kGroups * h + group));
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const Scale& scale = tile.scales[h][r][group];
            const auto products = static_cast<float>(256 * d[group][2 * r] + d[group][2 * r + 1]);
            float& sum = sums.of[2 * r + token];
            if constexpr (Format::kHasMinimum) {
              sum = fmaf(scale.scale * factors.x, products, sum);
              sum = fmaf(-scale.minimum, factors.y, sum);
            } else {
              sum = fmaf(scale.scale, fmaf(factors.x, products, -factors.y), sum);
            }
          }
        }
      }
    }
  }

  // Leaves activations of columns 8 eight .. + 7 of the slice as operands, with those of the neighbouring
  // lanes, which have the rest of a block, in `row`; and the block's factors. All lanes of the warp take
  // part, also where the eight is not there.
  static __device__ __forceinline__ void leave(const float (&values)[8], int eight, bool is_there,
                                               unsigned char* row, float* blocks) {
    constexpr int kEights = kBlockColumns / 8;
    uint32_t largest_bits = 0;  // so that NaN is the largest
#pragma unroll
    for (const float value : values) largest_bits = max(largest_bits, __float_as_uint(value) & 0x7FFFFFFFu);
    largest_bits = max(warp_max<kEights>(largest_bits), 0x0DA24260u);  // 1e-30
    const float largest = __uint_as_float(largest_bits);
    // Both brought down: __fdividef leaves nothing of quotients by more than 2^126.
    constexpr float kDown = 1.0f / 16;
    const float inverse = __fdividef(kDown * kMostInteger, kDown * largest);
    // 1.5 * 2^23 + n has n in the low end of the mantissa; 128 more brings the lower byte to 0 .. 255.
    constexpr float kBase = 12582912.0f + 128.0f;
    uint32_t based[8], all = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      based[i] = __float_as_uint(fmaf(values[i], inverse, kBase));
      all += based[i];
    }
    uint32_t upper[2], lower[2];
    constexpr int kColumns[2][4] = {{2, 4, 3, 5}, {0, 7, 1, 6}};
    static_assert(byte_of_column(kColumns[0][0]) == 0 && byte_of_column(kColumns[0][1]) == 1 &&
                  byte_of_column(kColumns[0][2]) == 2 && byte_of_column(kColumns[0][3]) == 3 &&
                  byte_of_column(kColumns[1][0]) == 4 && byte_of_column(kColumns[1][1]) == 5 &&
                  byte_of_column(kColumns[1][2]) == 6 && byte_of_column(kColumns[1][3]) == 7);
#pragma unroll
    for (int word = 0; word < 2; ++word) {
      const auto& columns = kColumns[word];
      const uint32_t first = __byte_perm(based[columns[0]], based[columns[1]], 0x5410);
      const uint32_t second = __byte_perm(based[columns[2]], based[columns[3]], 0x5410);
      lower[word] = __byte_perm(first, second, 0x6420) ^ 0x80808080u;
      upper[word] = __byte_perm(first, second, 0x7531);
    }
    all = warp_sum<kEights>(all);
    if (!is_there) return;
    unsigned char* to = row + 128 * (eight / 8) + 8 * (eight % 8);
    *reinterpret_cast<uint2*>(to) = make_uint2(upper[0], upper[1]);
    *reinterpret_cast<uint2*>(to + 64) = make_uint2(lower[0], lower[1]);
    if (eight % kEights == 0) {
      // Whatever the base's bits add up to, they come off again.
      constexpr uint32_t kBaseBits = 0x4B400080u;
      const auto sum = static_cast<float>(static_cast<int32_t>(all - 8u * kEights * kBaseBits));
      const float unit = largest * (1.0f / kMostInteger);
      const float lack = Format::kHasMinimum ? sum : Format::kOrigin * sum;
      *reinterpret_cast<float2*>(blocks + 2 * (eight / kEights)) =
          make_float2(unit * (1.0f / Format::kByteSteps), unit * lack);
    }
  }
};

template <>
struct ScaledTile<Nf4Weights> {
  static constexpr Operands kOperands = Nf4Weights::kOperands;
  static constexpr bool kIsThere = true;
  static constexpr int kBlockColumns = 64, kStep = 1, kTileBlocks = kTileColumns / kBlockColumns;

  static __device__ __forceinline__ ScaledOperands operands(const FewTokenSmallPlan& plan,
                                                            unsigned char* shared, int tokens) {
    const int group = lane_index() / 4, pair = lane_index() % 4, token = group % 2;
    const bool has = group / 2 == pair && token < tokens;
    // What is 0 lies in banks of its own.
    return {has ? shared + plan.activations + token * plan.row_bytes + 16 * pair : shared + plan.zeros + 64,
            has ? 2 * kTileColumns : 0,
            reinterpret_cast<const float*>(shared + plan.block_factors) + 2 * pair,
            0,
            0,
            0,
            tokens};
  }

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
                                                  const ScaledOperands& operands, int column,
                                                  ScaledSums& sums) {
    const unsigned char* x = operands.first + column * operands.tile_bytes;
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
    // Of a token that is not there nobody reads the sum.
    const float2 units = *reinterpret_cast<const float2*>(operands.blocks + 2 * kTileBlocks * column);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      sums.of[i] = fmaf(tile.absmax[i / 2] * (i % 2 == 0 ? units.x : units.y), d[0][i] + d[1][i], sums.of[i]);
  }

  static __device__ __forceinline__ void leave(const float (&values)[8], int eight, bool is_there,
                                               unsigned char* row, float* blocks) {
    constexpr int kEights = kBlockColumns / 8;
    const PowerOfTwo power = power_for(warp_max<kEights>(largest_of(values)));
    if (!is_there) return;
    *reinterpret_cast<uint4*>(row + 2 * place_of_column(kOperands, 8 * eight)) =
        pack_operands(kOperands, power.scale, values);
    if (eight % kEights == 0) blocks[2 * (eight / kEights)] = power.inverse;
  }
};

}  // namespace onggi::cuda

// How the weights of each dtype come from the ring in shared memory into tensor core products: for a dtype
// `issue` queues the copy of a tile of 16 rows into a slot of the ring, and `multiply` adds its product with
// the activations to sums[n] (D of mma.m16n8k16: the lane's rows g and g + 8, tokens of tile n).
#pragma once

#include "kernels/cuda/few_token_input.cuh"
#include "kernels/cuda/placed_formats.cuh"

namespace onggi::cuda {

// Where a tile's weights meet the activations in shared memory.
struct TileInput {
  int offset;         // bytes to its columns in a row of the activations
  const float* sums;  // of its columns
};

template <int kTiles, int kSpread>
__device__ __forceinline__ void clear(float (&d)[kTiles][4], int n) {
  d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0.0f;
}

// sums += scale d - offset X for rows g (first) and g + 8.
struct RowFactors {
  float scale[2], offset[2];
};
__device__ __forceinline__ void add_scaled(float (&sums)[4], const float (&d)[4], const RowFactors& factors,
                                           const float2& x) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sums[2 * r] += fmaf(factors.scale[r], d[2 * r], -factors.offset[r] * x.x);
    sums[2 * r + 1] += fmaf(factors.scale[r], d[2 * r + 1], -factors.offset[r] * x.y);
  }
}

template <typename Format>
struct PlacedWeights {
  static constexpr int kColumns = Format::kColumns;
  static constexpr int kSlotBytes = Format::kBytes;

  static __device__ __forceinline__ void issue(const FewTokenParams& p, const FewTokenMember& member,
                                               int tile, int column_tile, unsigned char* slot) {
    const int across = (p.columns + kColumns - 1) / kColumns;
    const uint8_t* from = member.data + (static_cast<int64_t>(tile) * across + column_tile) * kSlotBytes;
    constexpr int kPieces = kSlotBytes / 16;
#pragma unroll
    for (int first = 0; first < kPieces; first += kWarp) {
      const int piece = first + lane_index();
      if (first + kWarp <= kPieces || piece < kPieces) cp_async_16(slot + 16 * piece, from + 16 * piece);
    }
  }

  // The sums of the lane's unit of columns (of kSpread units from `unit` on) for its two tokens of tile n.
  template <int kTiles, int kSpread>
  static __device__ __forceinline__ float2 input_sum(const InputReader<kTiles, kSpread>& reader,
                                                     const TileInput& input, int unit, int n) {
    constexpr int kTokens = 8 * kTiles / kSpread;
    const int token = 8 * n + 2 * reader.pair % InputReader<kTiles, kSpread>::kColumnTokens;
    const int own = kSpread == 1 ? unit : unit + reader.pair * kSpread / 4;
    if constexpr (Format::kUnits == 2) {
      return *reinterpret_cast<const float2*>(input.sums + own * kTokens + token);
    } else {
      const float2 a = *reinterpret_cast<const float2*>(input.sums + 2 * own * kTokens + token);
      const float2 b = *reinterpret_cast<const float2*>(input.sums + (2 * own + 1) * kTokens + token);
      return make_float2(a.x + b.x, a.y + b.y);
    }
  }

  template <int kTiles, int kSpread>
  static __device__ __forceinline__ void multiply(const FewTokenMember&, const unsigned char* slot,
                                                  const unsigned char*,
                                                  const InputReader<kTiles, kSpread>& reader,
                                                  const TileInput& input, float (&sums)[kTiles][4]) {
    constexpr int kUnits = Format::kUnits;
    const int lane = lane_index();
    const typename Format::Row rows[2] = {Format::row(slot, reader.group),
                                          Format::row(slot, reader.group + 8)};
    const int selected = kSpread == 1 ? 0 : reader.pair * kSpread / 4;
    float d[kTiles][4];
#pragma unroll
    for (int j = 0; j < kColumns / 64; ++j) {
      const typename Format::Chunk chunk = Format::chunk(slot, lane, j);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int s = 2 * j + c;
        // Factors of the units that end in these 32 columns.
        RowFactors factors[kUnits];
#pragma unroll
        for (int u = 0; u < kUnits; ++u) {
          const int unit = kUnits * s + u;
          if (unit % kSpread != kSpread - 1) continue;
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const Scale scale = Format::scale(rows[r], unit + 1 - kSpread, selected);
            factors[u].scale[r] = scale.scale;
            factors[u].offset[r] = fmaf(scale.scale, Format::kBias, scale.minimum);
          }
        }
        uint32_t pairs[Format::kParts][2][4];
#pragma unroll
        for (int part = 0; part < Format::kParts; ++part)
#pragma unroll
          for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int q = 0; q < 4; ++q) pairs[part][r][q] = Format::pair(chunk, c, r, part, q);
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          uint2 x[2];
          load_input(reader, input, s, n, x);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int unit = kUnits * s + (kUnits == 2 ? h : 0);
            const bool starts = unit % kSpread == 0 && (kUnits == 2 || h == 0);
            const bool ends = unit % kSpread == kSpread - 1 && (kUnits == 2 || h == 1);
            if (starts) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0.0f;
#pragma unroll
            for (int part = 0; part < Format::kParts; ++part) {
              const uint32_t a[4] = {pairs[part][0][2 * h], pairs[part][1][2 * h], pairs[part][0][2 * h + 1],
                                     pairs[part][1][2 * h + 1]};
              mma_m16n8k16_bf16(d[n], a, x[h].x, x[h].y);
            }
            if (ends)
              add_scaled(sums[n], d[n], factors[kUnits == 2 ? h : 0],
                         input_sum(reader, input, unit + 1 - kSpread, n));
          }
        }
      }
    }
  }

  // The lane's operands of 32 columns, for both products of depth 16.
  template <int kTiles, int kSpread>
  static __device__ __forceinline__ void load_input(const InputReader<kTiles, kSpread>& reader,
                                                    const TileInput& input, int s, int n, uint2 (&x)[2]) {
    if constexpr (kSpread == 1 || Format::kUnits == 1) {
      const uint4 both =
          *reinterpret_cast<const uint4*>(reader.base(n, input.offset, s) + 64 * s + reader.unit[s % 4]);
      x[0] = make_uint2(both.x, both.y);
      x[1] = make_uint2(both.z, both.w);
    } else {
#pragma unroll
      for (int h = 0; h < 2; ++h)
        x[h] = *reinterpret_cast<const uint2*>(reader.base(n, input.offset, 2 * s + h) + 64 * s +
                                               reader.unit[s % 4] + 8 * h);
    }
  }
};

// Row-major f16 and bf16: K is a multiple of 8 and rows are aligned to 16 bytes. In the ring rows are 128
// bytes; the lower and upper half of odd rows are exchanged, so that the lanes of a load meet all banks.
// f16 is cut into two bf16 numbers, which together hold its 11 bits.
template <DType kDType>
struct PlainWeights {
  static constexpr int kColumns = 64;
  static constexpr int kSlotBytes = 2 * kColumns * kTileRows;

  static __device__ __forceinline__ int place(int row, int eight) {
    return 128 * row + 16 * (eight ^ (4 * (row & 1)));
  }
  static __device__ __forceinline__ void issue(const FewTokenParams& p, const FewTokenMember& member,
                                               int tile, int column_tile, unsigned char* slot) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int piece = lane_index() + kWarp * i, row = piece / 8, eight = piece % 8;
      // Rows beyond N repeat the last one: nobody reads their sums.
      const int from_row = min(kTileRows * tile + row, member.rows - 1);
      const int column = kColumns * column_tile + 8 * eight;
      const bool inside = column < p.columns;
      const uint8_t* from =
          member.data + 2 * (static_cast<int64_t>(from_row) * p.columns + (inside ? column : 0));
      cp_async_16(slot + place(row, eight), from, inside ? 16 : 0);
    }
  }

  template <int kTiles, int kSpread>
  static __device__ __forceinline__ void multiply(const FewTokenMember&, const unsigned char* slot,
                                                  const unsigned char*,
                                                  const InputReader<kTiles, kSpread>& reader,
                                                  const TileInput& input, float (&sums)[kTiles][4]) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      uint32_t words[2][4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint4 bits =
            *reinterpret_cast<const uint4*>(slot + place(reader.group + 8 * r, 4 * c + reader.pair));
        words[r][0] = bits.x, words[r][1] = bits.y, words[r][2] = bits.z, words[r][3] = bits.w;
      }
      // Lane (g, p) has the columns 8 p .. 8 p + 7 of 32: unit 2 (p % 2) + step, half p / 2 of the
      // activations.
      const int group = (input.offset / 64 + c) & 3;
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const int unit = (2 * (reader.pair & 1) + step) ^ group ^ reader.swizzle;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          // With spread columns one of them does the work.
          const unsigned char* row = reader.takes(0) ? reader.row[n] + input.offset + 64 * c : reader.zeros;
          const uint2 x = *reinterpret_cast<const uint2*>(row + 16 * unit + 8 * (reader.pair / 2));
          multiply_step(words, step, x, sums[n]);
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ void multiply_step(const uint32_t (&words)[2][4], int step,
                                                       const uint2& x, float (&sums)[4]) {
    uint32_t a[4] = {words[0][2 * step], words[1][2 * step], words[0][2 * step + 1], words[1][2 * step + 1]};
    if constexpr (kDType == DType::kF16) {
      uint32_t rest[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 exact = unpack_f16(a[i]);
        a[i] = pack_bf16(exact.x, exact.y);
        const float2 rounded = unpack_bf16(a[i]);
        rest[i] = pack_bf16(exact.x - rounded.x, exact.y - rounded.y);
      }
      mma_m16n8k16_bf16(sums, rest, x.x, x.y);
    }
    mma_m16n8k16_bf16(sums, a, x.x, x.y);
  }
};

// NF4 with K a multiple of 256. A slot: 16 rows of 128 bytes, pieces of 16 bytes permuted by 2 (row % 4);
// then of each row four 8-bit absmaxes, then of each row the factor that these share.
//
// Bytes become pairs of bf16 by a table with a column for each lane (so that no two meet in a bank):
// [256][32] words, then the dynamic code, 256 floats. A step of a product takes bytes 2 i and 2 i + 1 of the
// 8 bytes, 16 columns, that lane (g, p) has of 64: columns 16 p + 4 i .. + 3.
struct Nf4Weights {
  static constexpr int kColumns = 256;
  static constexpr int kSlotBytes = 2048 + 64 + 64;
  static constexpr int kTableBytes = 256 * 128 + 1024;

  static __device__ __forceinline__ void issue(const FewTokenParams& p, const FewTokenMember& member,
                                               int tile, int column_tile, unsigned char* slot) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int piece = lane_index() + kWarp * i, row = piece / 8, sixteen = piece % 8;
      const int from_row = min(kTileRows * tile + row, member.rows - 1);
      cp_async_16(slot + 128 * row + 16 * (sixteen ^ (2 * (row & 3))),
                  member.data + (static_cast<int64_t>(from_row) * p.columns + kColumns * column_tile) / 2 +
                      16 * sixteen);
    }
    const int row = lane_index() % kTileRows;
    const int from_row = min(kTileRows * tile + row, member.rows - 1);
    const int64_t block = (static_cast<int64_t>(from_row) * p.columns + kColumns * column_tile) / 64;
    if (lane_index() < kTileRows) {
      cp_async_4(slot + 2048 + 4 * row, member.nf4_absmax + block);
    } else {
      cp_async_4(slot + 2112 + 4 * row, member.nf4_nested + block / 256);
    }
  }

  static __device__ void fill_table(const float* tables, unsigned char* table) {
    for (int i = threadIdx.x; i < 256 * kWarp; i += static_cast<int>(blockDim.x)) {
      const int byte = i / kWarp;
      reinterpret_cast<uint32_t*>(table)[i] = pack_bf16(tables[byte / 16], tables[byte % 16]);
    }
    for (int i = threadIdx.x; i < 256; i += static_cast<int>(blockDim.x))
      reinterpret_cast<float*>(table + 256 * 128)[i] = tables[16 + i];
  }

  template <int kTiles, int kSpread>
  static __device__ __forceinline__ void multiply(const FewTokenMember& member, const unsigned char* slot,
                                                  const unsigned char* table,
                                                  const InputReader<kTiles, kSpread>& reader,
                                                  const TileInput& input, float (&sums)[kTiles][4]) {
    const int lane = lane_index(), group = reader.group, pair = reader.pair;
    const unsigned char* lane_table = table + 4 * lane;
    const auto* dynamic = reinterpret_cast<const float*>(table + 256 * 128);
    uint32_t absmax[2];
    float nested[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      absmax[r] = *reinterpret_cast<const uint32_t*>(slot + 2048 + 4 * (group + 8 * r));
      nested[r] = *reinterpret_cast<const float*>(slot + 2112 + 4 * (group + 8 * r));
    }
    const int selected = kSpread == 1 ? 0 : pair * kSpread / 4;
    float d[kTiles][4];
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      uint2 bytes[2];
#pragma unroll
      for (int r = 0; r < 2; ++r)
        bytes[r] = *reinterpret_cast<const uint2*>(slot + 128 * (group + 8 * r) +
                                                   16 * ((2 * block + pair / 2) ^ (2 * (group & 3))) +
                                                   8 * (pair & 1));
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
        if (block % kSpread == 0) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0.0f;
      const int input_group = 2 * block + pair / 2;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t a[4];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const uint32_t word = i < 2 ? bytes[r].x : bytes[r].y;
#pragma unroll
          for (int b = 0; b < 2; ++b)
            a[r + 2 * b] = *reinterpret_cast<const uint32_t*>(
                lane_table + (format_detail::shift_right(word, 8 * (2 * (i % 2) + b) - 7) & 0x7F80u));
        }
        const int unit = i ^ (input_group & 3) ^ reader.swizzle;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          const uint2 x = *reinterpret_cast<const uint2*>(reader.base(n, input.offset, block) +
                                                          64 * input_group + 16 * unit + 8 * (pair & 1));
          mma_m16n8k16_bf16(d[n], a, x.x, x.y);
        }
      }
      if (block % kSpread != kSpread - 1) continue;
      float scale[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint32_t index = absmax[r] >> (8 * (block + 1 - kSpread + selected)) & 255u;
        scale[r] = fmaf(dynamic[index], nested[r], member.nf4_offset);
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] = fmaf(scale[i / 2], d[n][i], sums[n][i]);
    }
  }
};

}  // namespace onggi::cuda

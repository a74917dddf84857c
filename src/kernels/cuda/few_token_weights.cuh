// How the weights of each dtype come from global memory into a slot of a warp's ring in shared memory, and
// from there into operands of tensor core products.
//
// A type of weights has:
//   kOperands, kSlotBytes
//   kHalves     a tile is 16 rows and, of each 256 columns, those whose places (place_of_column) make up
//               kHalves of two halves: all 256 columns of most dtypes, 128 of plain ones
//   Source      a warp's place in a row of tiles: seek() finds it, issue() queues the copies of its tile and
//               goes on to the next one of the row
//   Half        a half of a tile for a lane, columns 64 p + 32 h .. + 31 of its two rows: bits and scales
//   operands    of products 2 j and 2 j + 1 of a half, columns 64 p + 32 h + 8 j .. + 7
#pragma once

#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/nf4_tables.h"
#include "kernels/cuda/placed_formats.cuh"

namespace onggi::cuda {

// What both rows' weights are made with, besides the slot; for NF4 alone.
struct WeightTables {
  float nf4_offset;
  const unsigned char* nf4;   // Nf4Weights::put_in_table
  SharedAddress nf4_of_lane;  // its column

  __device__ __forceinline__ WeightTables(float offset, const unsigned char* table)
      : nf4_offset(offset),
        nf4(table),
        nf4_of_lane(shared_address(table) + 4 * static_cast<unsigned>(lane_index())) {}
};

template <typename Format>
struct PlacedWeights {
  static constexpr DType kDType = Format::kDType;
  static constexpr Operands kOperands = Operands::kF16;
  static constexpr int kHalves = 2, kSlotBytes = Format::kBytes, kGroups = Format::kGroups;

  struct Source {
    const uint8_t* from;  // of the lane
    __device__ __forceinline__ void seek(const FewTokenParams& p, const FewTokenMember& member, int tile,
                                         int column_tile) {
      from = member.data + (static_cast<int64_t>(tile) * p.column_tiles + column_tile) * kSlotBytes +
             16 * lane_index();
    }
    __device__ __forceinline__ void issue(unsigned char* slot) {
      constexpr int kPieces = kSlotBytes / 16;
      unsigned char* to = slot + 16 * lane_index();
#pragma unroll
      for (int first = 0; first < kPieces; first += kWarp)
        if (first + kWarp <= kPieces || lane_index() < kPieces - first)
          cp_async_16(to + 16 * first, from + 16 * first);
      from += kSlotBytes;
    }
  };

  struct Half {
    typename Format::Unit units[2];
    typename Format::Factors factors[2][kGroups];
    __device__ __forceinline__ Half(const WeightTables&, const unsigned char* slot, int h)
        : units{Format::unit(slot, lane_index(), 2 * h), Format::unit(slot, lane_index(), 2 * h + 1)} {
#pragma unroll
      for (int r = 0; r < 2; ++r)
        Format::factors(slot, lane_index() / 4 + 8 * r, lane_index() % 4, h, factors[r]);
    }
  };
  static __device__ __forceinline__ void operands(const Half& half, const WeightTables&, int j,
                                                  uint32_t (&a)[2][4]) {
    const int group = kGroups == 2 ? j / 2 : 0;
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[i / 2][2 * (i % 2) + r] =
            Format::weights(Format::pair(half.units[j / 2], r, 4 * (j % 2) + i), half.factors[r][group]);
  }
};

// Row-major f16 and bf16: K is a multiple of 8 and rows are aligned to 16 bytes. A slot holds the rows one
// after another, 256 bytes each; the pieces of 16 bytes of each 128 are exchanged so that neither the copies
// nor the loads meet in a bank. They stay within their 128, since copies of a line that go to several of them
// ask the L2 cache for its parts one by one: on an H200 its throughput then held the products to 2.0 TB/s.
template <DType kType>
struct PlainWeights {
  static constexpr DType kDType = kType;
  static constexpr Operands kOperands = operands_of(kDType);
  static constexpr int kHalves = 1, kSlotBytes = 2 * 128 * kTileRows;

  struct Source {
    const uint8_t* rows[8];  // of the lane, in its copies' rows; at the row's first column
    int columns;             // K
    int at;                  // the next tile
    __device__ __forceinline__ void seek(const FewTokenParams& p, const FewTokenMember& member, int tile,
                                         int column_tile) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = (lane_index() + kWarp * i) / 16;
        // Rows beyond N repeat the last one: nobody reads their sums.
        const int from_row = min(kTileRows * tile + row, member.rows - 1);
        rows[i] = member.data + 2 * static_cast<int64_t>(from_row) * p.columns;
      }
      columns = p.columns;
      at = column_tile;
    }
    __device__ __forceinline__ void issue(unsigned char* slot) {
      const int pair = lane_index() / 4 % 4, j = lane_index() % 4;
      const int own = lane_columns(kOperands) == 64
                          ? kTileColumns * (at / 2) + 64 * pair + 32 * (at % 2) + 8 * j
                          : kTileColumns / 2 * at + 32 * pair + 8 * j;
      const bool inside = own < columns;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = (lane_index() + kWarp * i) / 16;
        cp_async_16(slot + place(row, pair, j), rows[i] + (inside ? 2 * own : 0), inside ? 16 : 0);
      }
      ++at;
    }
  };

  // Of piece j of a lane pair of a row, in bytes.
  static __device__ __forceinline__ int place(int row, int pair, int j) {
    return 256 * row + 128 * (pair / 2) + 16 * ((4 * (pair % 2) + j) ^ (row % 2 + 2 * (pair / 2)));
  }

  struct Half {
    const unsigned char* slot;
    __device__ __forceinline__ Half(const WeightTables&, const unsigned char* of, int) : slot(of) {}
  };
  static __device__ __forceinline__ void operands(const Half& half, const WeightTables&, int j,
                                                  uint32_t (&a)[2][4]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint4 words =
          *reinterpret_cast<const uint4*>(half.slot + place(lane_index() / 4 + 8 * r, lane_index() % 4, j));
      a[0][r] = words.x, a[0][2 + r] = words.y, a[1][r] = words.z, a[1][2 + r] = words.w;
    }
  }
};

// NF4 with K a multiple of 256. A slot: the rows, 128 bytes each, with the pieces of 16 bytes of odd rows
// exchanged in pairs (why: see PlainWeights); then of each row four 8-bit absmaxes, then of each row the
// factor that these share. A lane has a whole block of 64 values in each row.
//
// Bytes become pairs of f16 by a table in shared memory, with a column for each lane of a warp, so that no
// two lanes meet in a bank: [256][32] words; then dynamic_code(), f32 [256].
struct Nf4Weights {
  static constexpr DType kDType = DType::kNF4;
  static constexpr Operands kOperands = Operands::kF16;
  static constexpr int kHalves = 2, kSlotBytes = 2048 + 64 + 64;
  static constexpr int kDynamicCode = 256 * 32 * 4, kTableBytes = kDynamicCode + 256 * 4;

  struct Source {
    const uint8_t* from;    // of the lane in the tile's first row
    int row_offset[4];      // bytes to its copies' rows
    const uint8_t* scales;  // the member's absmaxes for lanes 0 to 15, the nested ones for the others
    int block;              // number of the row's block at the next tile
    __device__ __forceinline__ void seek(const FewTokenParams& p, const FewTokenMember& member, int tile,
                                         int column_tile) {
      const int row_bytes = p.columns / 2, last = member.rows - 1 - kTileRows * tile;
      from = member.data + static_cast<int64_t>(kTileRows * tile) * row_bytes + 128 * column_tile +
             16 * (lane_index() % 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) row_offset[i] = min(lane_index() / 8 + 4 * i, last) * row_bytes;
      scales =
          lane_index() < kTileRows ? member.nf4_absmax : reinterpret_cast<const uint8_t*>(member.nf4_nested);
      block = (kTileRows * tile + min(lane_index() % kTileRows, last)) * (p.columns / 64) + 4 * column_tile;
    }
    __device__ __forceinline__ void issue(unsigned char* slot) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = lane_index() / 8 + 4 * i;
        cp_async_16(slot + place(row, lane_index() % 8), from + row_offset[i]);
      }
      const int at = lane_index() < kTileRows ? block : block / 256 * static_cast<int>(sizeof(float));
      cp_async_4(slot + 2048 + 4 * lane_index(), scales + at);
      from += 128;
      block += 4;
    }
  };

  // Of a piece of 16 bytes of a row, in bytes.
  static __device__ __forceinline__ int place(int row, int piece) {
    return 128 * row + 16 * (piece ^ row % 2);
  }

  // A row of the table, for all lanes.
  static __device__ __forceinline__ void put_in_table(const Nf4Byte& of, int byte, unsigned char* table) {
    const uint4 four = make_uint4(of.values, of.values, of.values, of.values);
    // In turns, so that neighbouring threads do not meet in a bank.
#pragma unroll
    for (int i = 0; i < 8; ++i) *reinterpret_cast<uint4*>(table + 128 * byte + 16 * ((byte + i) % 8)) = four;
    *reinterpret_cast<float*>(table + kDynamicCode + 4 * byte) = of.dynamic;
  }
  // Makes the table, which is there after a barrier.
  static __device__ __forceinline__ void make_table(const Nf4Byte* bytes, unsigned char* table) {
#pragma unroll 1
    for (int byte = static_cast<int>(threadIdx.x); byte < 256; byte += static_cast<int>(blockDim.x))
      put_in_table(bytes[byte], byte, table);
  }

  static __device__ __forceinline__ float absmax(const WeightTables& tables, const unsigned char* slot,
                                                 int r) {
    const auto* dynamic = reinterpret_cast<const float*>(tables.nf4 + kDynamicCode);
    const int row = lane_index() / 4 + 8 * r;
    const float nested = *reinterpret_cast<const float*>(slot + 2112 + 4 * row);
    return fmaf(dynamic[slot[2048 + 4 * row + lane_index() % 4]], nested, tables.nf4_offset);
  }
  static __device__ __forceinline__ uint4 bits(const unsigned char* slot, int r, int h) {
    return *reinterpret_cast<const uint4*>(slot +
                                           place(lane_index() / 4 + 8 * r, 2 * (lane_index() % 4) + h));
  }
  static __device__ __forceinline__ uint32_t word(const uint4& bits, int j) {
    return j == 0 ? bits.x : j == 1 ? bits.y : j == 2 ? bits.z : bits.w;
  }
  // Byte i of a word as f16 values of the table of 16.
  static __device__ __forceinline__ uint32_t codes(const WeightTables& tables, uint32_t word, int i) {
    return load_shared(tables.nf4_of_lane + 128u * __byte_perm(word, 0, 0x4440u + static_cast<uint32_t>(i)));
  }

  struct Half {
    __half2 factors[2];
    uint4 words[2];
    __device__ __forceinline__ Half(const WeightTables& tables, const unsigned char* slot, int h)
        : factors{__float2half2_rn(absmax(tables, slot, 0)), __float2half2_rn(absmax(tables, slot, 1))},
          words{bits(slot, 0, h), bits(slot, 1, h)} {}
  };
  static __device__ __forceinline__ void operands(const Half& half, const WeightTables& tables, int j,
                                                  uint32_t (&a)[2][4]) {
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[i / 2][2 * (i % 2) + r] =
            bits_of(__hmul2(half2_of(codes(tables, word(half.words[r], j), i)), half.factors[r]));
  }
};

template <Operands kOperands>
__device__ __forceinline__ void multiply_16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kOperands == Operands::kF16) {
    mma_m16n8k16_f16(d, a, b0, b1);
  } else {
    mma_m16n8k16_bf16(d, a, b0, b1);
  }
}

// Runs body(First{}, Second{}) for the weights of the runs' dtypes, which are one, or two that files mix
// within a layer; a kernel takes First's runs and Second's. false: others.
template <typename Body>
bool with_weights(const FewTokenParams& p, const Body& body) {
  const auto both = [&](auto weights) { return body(weights, weights), true; };
  DType other = p.runs[0].dtype;
  for (int i = 1; i < p.run_count; ++i) {
    if (p.runs[i].dtype == p.runs[0].dtype) continue;
    if (other != p.runs[0].dtype && other != p.runs[i].dtype) return false;
    other = p.runs[i].dtype;
  }
  if (other != p.runs[0].dtype) {
    const DType low = p.runs[0].dtype == DType::kQ6_K ? other : p.runs[0].dtype;
    if (p.runs[0].dtype != DType::kQ6_K && other != DType::kQ6_K) return false;
    if (low == DType::kQ4_K) return body(PlacedWeights<FormatQ4K>{}, PlacedWeights<FormatQ6K>{}), true;
    if (low == DType::kQ5_K) return body(PlacedWeights<FormatQ5K>{}, PlacedWeights<FormatQ6K>{}), true;
    return false;
  }
  switch (other) {
    case DType::kQ4_K:
      return both(PlacedWeights<FormatQ4K>{});
    case DType::kQ5_K:
      return both(PlacedWeights<FormatQ5K>{});
    case DType::kQ6_K:
      return both(PlacedWeights<FormatQ6K>{});
    case DType::kQ8_0:
      return both(PlacedWeights<FormatQ8_0>{});
    case DType::kQ4_0:
      return both(PlacedWeights<FormatQ4_0>{});
    case DType::kQ3_K:
      return both(PlacedWeights<FormatQ3K>{});
    case DType::kQ2_K:
      return both(PlacedWeights<FormatQ2K>{});
    case DType::kNF4:
      return both(Nf4Weights{});
    case DType::kBF16:
      return both(PlainWeights<DType::kBF16>{});
    case DType::kF16:
      return both(PlainWeights<DType::kF16>{});
    default:
      return false;
  }
}
// Whether one launch can take all runs.
inline bool have_one_kernel(const FewTokenParams& p) {
  return with_weights(p, [](auto, auto) {});
}

// Bytes of a slot, and halves of a tile, of a dtype's weights.
inline int slot_bytes_of(DType dtype) {
  if (dtype == DType::kNF4) return Nf4Weights::kSlotBytes;
  return is_placed_in_tiles(dtype) ? placed_tile_bytes(dtype) : PlainWeights<DType::kBF16>::kSlotBytes;
}
constexpr int halves_of(DType dtype) { return dtype == DType::kNF4 || is_placed_in_tiles(dtype) ? 2 : 1; }
// Whether the kernels can read a member's rows.
inline bool can_read(const FewTokenMember& member, int columns) {
  const auto address = reinterpret_cast<uintptr_t>(member.data);
  if (address % 16 != 0) return false;
  switch (member.dtype) {
    case DType::kNF4:
      return columns % kTileColumns == 0 && reinterpret_cast<uintptr_t>(member.nf4_absmax) % 4 == 0;
    case DType::kBF16:
    case DType::kF16:
      return columns % 8 == 0;
    default:
      return is_placed_in_tiles(member.dtype);
  }
}

}  // namespace onggi::cuda

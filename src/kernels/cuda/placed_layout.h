// How block-quantised weights lie in a GPU's memory: OpTable::place_weight repacks the blocks of a file into
// tiles in which every lane of a warp finds the operands of its tensor core products side by side.
//
// A weight [N, K] is cut into tiles of 16 rows and 256 columns, which follow each other along a row of tiles,
// then the next 16 rows; N and K are padded with values whose scale is 0. A tile has exactly the bits of its
// blocks (Q3_K's scales take 8 bits instead of 6), first those of the values, then the scales.
//
// Lane (g, p) = (lane / 4, lane % 4) of mma.m16n8k16 has, of the rows g (r = 0) and g + 8 (r = 1), the
// columns 64 p .. 64 p + 63: whole blocks of its own, so that no lane decodes another's scales. Which columns
// meet in a product is up to us as long as the activations follow the same order. 16 of them are a unit u, in
// pairs i < 8 of neighbours, and in two eights e. The bytes of two words have the columns of an eight in this
// order: 2 4 3 5, 0 7 1 6 (byte_of_column). So a unit has four words s = 2 e + (0 or 1) of bytes. Planes of
// bits:
//   8 bits: [unit][r][32 lanes] four words s
//   4 bits: [unit][32 lanes] four words, word 2 r + e has words 2 e and 2 e + 1: see below
//   2 bits: [unit][32 lanes] two words, word r has those of word s at bits 2 s of its bytes
//   1 bit:  [unit][32 lanes] one word with the bits of row r and word s at bit 4 r + s of its bytes
// In a word of 4 bits, those of word 2 e lie at bits B - 4 .. B - 1 of its bytes, those of word 2 e + 1
// behind them, B .. B + 3, the last ones going on at bit 0. One operation and one of logic make bytes of
// them; and one brings a pair to bits B .. B + 3 and B + 16 .. B + 19, the place in the mantissas of two f16
// where the dtype needs it: as they are (f = i % 4 = 0), after a shift left by 4 (f = 1), right by 4 (2), or
// a rotation left by 8 (3). So a pair becomes two numbers 1 + value / 2^bits by that operation and one of
// logic. Pairs of other planes come to their place by a shift or, f = 3, a rotation.
//
//            planes                     B      scales
//   Q4_K     4 bits                     6      [16 rows]: d, dmin, then three words whose bytes p are the 24
//                                              bits of lane p: scale, minimum of its columns 0 .. 31, then of
//                                              32 .. 63, six bits each
//   Q5_K     4 bits; 1 bit (the fifth)  5      the same
//   Q6_K     4 bits; 2 bits (upper)     4      [16 rows][16] scale + 128, then d, see below
//   Q3_K     2 bits; 1 bit (the third)         the same
//   Q2_K     2 bits                            [16 rows][16] scale and minimum, then [16 rows] d, dmin
//   Q8_0     8 bits of value + 128             [16 rows][8] d
//   Q4_0     4 bits                     6      [16 rows][8] d
// d of Q6_K and Q3_K: [8] words, word g has that of row g in its lower half and that of row g + 8 in its
// upper.
//
// NF4 and plain types stay row-major as in WeightView.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace onggi::cuda {

inline constexpr int kTileRows = 16, kTileColumns = 256;

// Where in the eight bytes of two words a column of an eight is.
constexpr int byte_of_column(int column) {
  constexpr int kBytes[8] = {4, 6, 0, 2, 1, 3, 7, 5};
  return kBytes[column];
}
// The bit of a word of 4 bits at which the lowest bit of a byte of the eight lies, for the destination B; the
// others follow, after bit 31 at bit 0.
constexpr int nibble_bit(int destination, int byte) {
  return 8 * (byte % 4) + destination - (byte < 4 ? 4 : 0);
}
// B.
constexpr int nibble_destination(DType dtype) {
  return dtype == DType::kQ5_K ? 5 : dtype == DType::kQ6_K ? 4 : 6;
}

// Bytes of a tile, a multiple of 16; 0: the dtype is not placed in tiles.
constexpr int placed_tile_bytes(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kQ4_K:
      return 2048 + 256;
    case DType::kQ5_K:
      return 2048 + 512 + 256;
    case DType::kQ6_K:
      return 2048 + 1024 + 256 + 32;
    case DType::kQ2_K:
      return 1024 + 256 + 64;
    case DType::kQ3_K:
      return 1024 + 512 + 256 + 32;
    case DType::kQ8_0:
      return 4096 + 256;
    default:
      return 0;
  }
}
constexpr bool is_placed_in_tiles(DType dtype) { return placed_tile_bytes(dtype) > 0; }

constexpr int64_t row_tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
constexpr int64_t column_tiles(int64_t columns) { return (columns + kTileColumns - 1) / kTileColumns; }
// Bytes of a placed weight [rows, columns].
constexpr int64_t placed_bytes(DType dtype, int64_t rows, int64_t columns) {
  return row_tiles(rows) * column_tiles(columns) * placed_tile_bytes(dtype);
}

}  // namespace onggi::cuda

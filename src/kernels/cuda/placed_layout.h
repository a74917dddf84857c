// How block-quantised weights lie in a GPU's memory: OpTable::place_weight repacks the blocks of a file into
// tiles in which every lane of a warp finds the operands of its tensor core products side by side.
//
// A weight [N, K] is cut into tiles of 16 rows and 256 columns (Q8_0: 128). Tiles follow each other along a
// row of tiles, then the next 16 rows; N and K are padded with values that are 0. A tile has exactly the bits
// of its blocks (Q3_K's scales take 8 bits instead of 6), first those of the values, then the scales.
//
// Values. Lane (g, p) = (lane / 4, lane % 4) of mma.m16n8k16 holds, of the rows g (r = 0) and g + 8 (r = 1)
// and of each 32 columns, the columns k = 32 s + 16 h + 4 p + i with h < 2, i < 4; as pairs of neighbours,
// pair q = 2 h + i / 2 and i % 2 telling which of the two. 64 columns make a chunk j, s = 2 j + c. Planes of
// bits, each chunk after chunk:
//   4 bits: [chunk][32 lanes] four words, word 2 c + r has pair q at bits 4 q and 4 q + 16
//   2 bits: [chunk][32 lanes] two words, word c has pair q of row r at bits 2 (q + 4 r), + 16
//   1 bit:  [chunk][32 lanes] one word with pair q of (c, r) at bit q + 4 r + 8 c, + 16
// So `word >> shift & mask | exponent` makes two bf16 numbers, 128 + value, of a pair.
//
//            planes                                 scales
//   Q4_K     4 bits                                 [16 rows][16 bytes]: d, dmin, scales as in the file
//   Q5_K     4 bits; 1 bit (the fifth)              the same
//   Q6_K     4 bits; 2 bits (the upper two)         [16 rows][16] scale + 128, then d, see below
//   Q3_K     2 bits; 1 bit (the third)              the same
//   Q2_K     2 bits                                 [16 rows][16] scale and minimum, then [16 rows] d, dmin
//   Q8_0     chunk by chunk: 4 low bits, 4 upper    [16 rows][4] d
//            bits of value + 128
//   Q4_0     4 bits                                 [16 rows][8] d
// d of Q6_K and Q3_K: [8] words, word g has that of row g in its lower half and that of row g + 8 in its
// upper.
//
// NF4 and plain types stay row-major as in WeightView.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace onggi::cuda {

inline constexpr int kTileRows = 16;

struct PlacedTile {
  int columns = 0;  // 0: the dtype is not placed in tiles
  int bytes = 0;    // a multiple of 16
};
constexpr PlacedTile placed_tile(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kQ4_K:
      return {256, 2048 + 256};
    case DType::kQ5_K:
      return {256, 2048 + 512 + 256};
    case DType::kQ6_K:
      return {256, 2048 + 1024 + 256 + 32};
    case DType::kQ2_K:
      return {256, 1024 + 256 + 64};
    case DType::kQ3_K:
      return {256, 1024 + 512 + 256 + 32};
    case DType::kQ8_0:
      return {128, 2048 + 128};
    default:
      return {};
  }
}
constexpr bool is_placed_in_tiles(DType dtype) { return placed_tile(dtype).columns > 0; }

constexpr int64_t row_tiles(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }
constexpr int64_t column_tiles(DType dtype, int64_t columns) {
  const int64_t width = placed_tile(dtype).columns;
  return (columns + width - 1) / width;
}
// Bytes of a placed weight [rows, columns].
constexpr int64_t placed_bytes(DType dtype, int64_t rows, int64_t columns) {
  return row_tiles(rows) * column_tiles(dtype, columns) * placed_tile(dtype).bytes;
}

}  // namespace onggi::cuda

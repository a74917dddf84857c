// Blocks of a file, repacked on the device into the tiles of placed_layout.h.
#include <algorithm>
#include <cstddef>

#include "blocks/q2_k.h"
#include "blocks/q3_k.h"
#include "blocks/q4_0.h"
#include "blocks/q4_k.h"
#include "blocks/q5_k.h"
#include "blocks/q6_k.h"
#include "blocks/q8_0.h"
#include "kernels/cuda/block_weight.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/placed_layout.h"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
// Blocks wait here for their repacking; copies of this size run at full speed.
constexpr int64_t kPieceBytes = int64_t{32} << 20;

// Bits of an unaligned block in global memory.
template <typename Block>
struct Raw {
  const uint8_t* at;
  __device__ int byte(size_t offset) const { return at[offset]; }
  __device__ uint32_t half(size_t offset) const {
    return at[offset] | static_cast<uint32_t>(at[offset + 1]) << 8;
  }
};

// For each dtype: value k of a block as the unsigned number whose bits the planes hold, and the scales.
struct SourceQ4K {
  using Block = BlockQ4K;
  static constexpr DType kDType = DType::kQ4_K;
  static constexpr int kNibbles = 1, kTwoBits = 0, kOneBit = 0;
  static constexpr int kScaleOffset = 2048;
  static __device__ int value(Raw<Block> block, int k) {
    return block.byte(offsetof(Block, qs) + 32 * (k / 64) + k % 32) >> (4 * (k / 32 % 2)) & 15;
  }
  static __device__ void scales(Raw<Block> block, int row, int, uint8_t* to) {
    for (int i = 0; i < 16; ++i) to[16 * row + i] = block.at[i];
  }
};

struct SourceQ5K {
  using Block = BlockQ5K;
  static constexpr DType kDType = DType::kQ5_K;
  static constexpr int kNibbles = 1, kTwoBits = 0, kOneBit = 1;
  static constexpr int kScaleOffset = 2560;
  static __device__ int value(Raw<Block> block, int k) {
    const int low = block.byte(offsetof(Block, qs) + 32 * (k / 64) + k % 32) >> (4 * (k / 32 % 2)) & 15;
    return low | (block.byte(offsetof(Block, qh) + k % 32) >> (k / 32) & 1) << 4;
  }
  static __device__ void scales(Raw<Block> block, int row, int, uint8_t* to) {
    for (int i = 0; i < 16; ++i) to[16 * row + i] = block.at[i];
  }
};

// d of rows g and g + 8 in one word.
__device__ void store_pair_of_d(uint32_t d, int row, uint8_t* to) {
  uint8_t* at = to + 16 * kTileRows + 4 * (row % 8) + 2 * (row / 8);
  at[0] = static_cast<uint8_t>(d);
  at[1] = static_cast<uint8_t>(d >> 8);
}

struct SourceQ6K {
  using Block = BlockQ6K;
  static constexpr DType kDType = DType::kQ6_K;
  static constexpr int kNibbles = 1, kTwoBits = 1, kOneBit = 0;
  static constexpr int kScaleOffset = 3072;
  static __device__ int value(Raw<Block> block, int k) {
    const int half = k / 128, j = k / 32 % 4, l = k % 32;
    const int low = block.byte(offsetof(Block, ql) + 64 * half + 32 * (j % 2) + l) >> (4 * (j / 2)) & 15;
    return low | (block.byte(offsetof(Block, qh) + 32 * half + l) >> (2 * j) & 3) << 4;
  }
  static __device__ void scales(Raw<Block> block, int row, int, uint8_t* to) {
    for (int i = 0; i < 16; ++i) to[16 * row + i] = block.at[offsetof(Block, scales) + i] ^ 0x80;
    store_pair_of_d(block.half(offsetof(Block, d)), row, to);
  }
};

struct SourceQ3K {
  using Block = BlockQ3K;
  static constexpr DType kDType = DType::kQ3_K;
  static constexpr int kNibbles = 0, kTwoBits = 1, kOneBit = 1;
  static constexpr int kScaleOffset = 1536;
  static __device__ int value(Raw<Block> block, int k) {
    const int half = k / 128, j = k / 32 % 4, l = k % 32;
    const int low = block.byte(offsetof(Block, qs) + 32 * half + l) >> (2 * j) & 3;
    return low | (block.byte(offsetof(Block, hmask) + l) >> (4 * half + j) & 1) << 2;
  }
  // As q3k_scale of blocks/q3_k.h.
  static __device__ void scales(Raw<Block> block, int row, int, uint8_t* to) {
    const uint8_t* packed = block.at + offsetof(Block, scales);
    for (int s = 0; s < 16; ++s) {
      const int low = s < 8 ? packed[s] & 15 : packed[s - 8] >> 4;
      const int high = packed[8 + s % 4] >> (2 * (s / 4)) & 3;
      to[16 * row + s] = static_cast<uint8_t>((low | high << 4) - 32 + 128);
    }
    store_pair_of_d(block.half(offsetof(Block, d)), row, to);
  }
};

struct SourceQ2K {
  using Block = BlockQ2K;
  static constexpr DType kDType = DType::kQ2_K;
  static constexpr int kNibbles = 0, kTwoBits = 1, kOneBit = 0;
  static constexpr int kScaleOffset = 1024;
  static __device__ int value(Raw<Block> block, int k) {
    return block.byte(offsetof(Block, qs) + 32 * (k / 128) + k % 32) >> (2 * (k / 32 % 4)) & 3;
  }
  static __device__ void scales(Raw<Block> block, int row, int, uint8_t* to) {
    for (int i = 0; i < 16; ++i) to[16 * row + i] = block.at[offsetof(Block, scales) + i];
    for (int i = 0; i < 4; ++i) to[256 + 4 * row + i] = block.at[offsetof(Block, d) + i];
  }
};

struct SourceQ8_0 {
  using Block = BlockQ8_0;
  static constexpr DType kDType = DType::kQ8_0;
  static constexpr int kNibbles = 2, kTwoBits = 0, kOneBit = 0;
  static constexpr int kScaleOffset = 2048;
  static __device__ int value(Raw<Block> block, int k) { return block.byte(offsetof(Block, qs) + k) ^ 0x80; }
  static __device__ void scales(Raw<Block> block, int row, int index, uint8_t* to) {
    for (int i = 0; i < 2; ++i) to[8 * row + 2 * index + i] = block.at[i];
  }
};

struct SourceQ4_0 {
  using Block = BlockQ4_0;
  static constexpr DType kDType = DType::kQ4_0;
  static constexpr int kNibbles = 1, kTwoBits = 0, kOneBit = 0;
  static constexpr int kScaleOffset = 2048;
  static __device__ int value(Raw<Block> block, int k) {
    return block.byte(offsetof(Block, qs) + k % 16) >> (4 * (k / 16)) & 15;
  }
  static __device__ void scales(Raw<Block> block, int row, int index, uint8_t* to) {
    for (int i = 0; i < 2; ++i) to[16 * row + 2 * index + i] = block.at[i];
  }
};

// Column of the first (odd: second) value of pair q that lane p has in 32 columns s.
__device__ __forceinline__ int column_of(int s, int p, int q, int odd) {
  return 32 * s + 16 * (q / 2) + 4 * p + 2 * (q % 2) + odd;
}

// A block repacks one tile. values[row][column] are those of the tile.
template <typename Source>
class Repack {
 public:
  static constexpr int kColumns = placed_tile(Source::kDType).columns;
  using Values = uint8_t[kTileRows][kColumns];

  // Bits [from, from + 4) of the values: [chunk][lane][word 2 c + r], chunks chunk_stride bytes apart.
  static __device__ void nibbles(const Values& values, int from, int chunk_stride, uint8_t* to) {
    for (int i = threadIdx.x; i < kColumns / 64 * 128; i += kThreads) {
      const int j = i / 128, lane = i / 4 % 32, c = i / 2 % 2, r = i % 2;
      uint32_t word = 0;
      for (int q = 0; q < 4; ++q)
        for (int odd = 0; odd < 2; ++odd) {
          const uint32_t value = values[lane / 4 + 8 * r][column_of(2 * j + c, lane % 4, q, odd)];
          word |= (value >> from & 15u) << (4 * q + 16 * odd);
        }
      *reinterpret_cast<uint32_t*>(to + chunk_stride * j + 4 * (i % 128)) = word;
    }
  }
  // [chunk][lane][word c]
  static __device__ void two_bits(const Values& values, int from, uint8_t* to) {
    for (int i = threadIdx.x; i < kColumns / 64 * 64; i += kThreads) {
      const int j = i / 64, lane = i / 2 % 32, c = i % 2;
      uint32_t word = 0;
      for (int r = 0; r < 2; ++r)
        for (int q = 0; q < 4; ++q)
          for (int odd = 0; odd < 2; ++odd) {
            const uint32_t value = values[lane / 4 + 8 * r][column_of(2 * j + c, lane % 4, q, odd)];
            word |= (value >> from & 3u) << (2 * (q + 4 * r) + 16 * odd);
          }
      *reinterpret_cast<uint32_t*>(to + 4 * i) = word;
    }
  }
  // [chunk][lane]
  static __device__ void one_bit(const Values& values, int from, uint8_t* to) {
    for (int i = threadIdx.x; i < kColumns / 64 * 32; i += kThreads) {
      const int j = i / 32, lane = i % 32;
      uint32_t word = 0;
      for (int c = 0; c < 2; ++c)
        for (int r = 0; r < 2; ++r)
          for (int q = 0; q < 4; ++q)
            for (int odd = 0; odd < 2; ++odd) {
              const uint32_t value = values[lane / 4 + 8 * r][column_of(2 * j + c, lane % 4, q, odd)];
              word |= (value >> from & 1u) << (q + 4 * r + 8 * c + 16 * odd);
            }
      *reinterpret_cast<uint32_t*>(to + 4 * i) = word;
    }
  }
};

// raw: `rows` rows of K / kElements blocks; blockIdx.x is the tile of the output.
template <typename Source>
__global__ void __launch_bounds__(kThreads)
    repack_kernel(const uint8_t* raw, int64_t rows, int64_t columns, int across, uint8_t* out) {
  using Block = typename Source::Block;
  constexpr int kColumns = Repack<Source>::kColumns;
  constexpr int kTileBytes = placed_tile(Source::kDType).bytes;
  __shared__ uint8_t values[kTileRows][kColumns];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) / across * kTileRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) % across * kColumns;
  const int64_t row_blocks = columns / Block::kElements;
  uint8_t* tile = out + static_cast<int64_t>(blockIdx.x) * kTileBytes;
  uint8_t* scales = tile + Source::kScaleOffset;

  // What is outside of the weight has a scale of 0; its values do not matter.
  for (int i = threadIdx.x; i < (kTileBytes - Source::kScaleOffset) / 4; i += kThreads)
    reinterpret_cast<uint32_t*>(scales)[i] = 0;
  for (int i = threadIdx.x; i < kTileRows * kColumns; i += kThreads) {
    const int row = i / kColumns, column = i % kColumns;
    int value = 0;
    if (first_row + row < rows && first_column + column < columns) {
      const int64_t block = (first_row + row) * row_blocks + (first_column + column) / Block::kElements;
      value = Source::value({raw + block * static_cast<int64_t>(sizeof(Block))}, column % Block::kElements);
    }
    values[row][column] = static_cast<uint8_t>(value);
  }
  __syncthreads();
  constexpr int kBlocksAcross = kColumns / Block::kElements;
  for (int i = threadIdx.x; i < kTileRows * kBlocksAcross; i += kThreads) {
    const int row = i / kBlocksAcross, index = i % kBlocksAcross;
    if (first_row + row >= rows || first_column + index * Block::kElements >= columns) continue;
    const int64_t block = (first_row + row) * row_blocks + first_column / Block::kElements + index;
    Source::scales({raw + block * static_cast<int64_t>(sizeof(Block))}, row, index, scales);
  }
  // Planes as in placed_layout.h; the upper bits of a value follow the lower ones.
  constexpr int kChunkBytes = 512 * Source::kNibbles;
  if constexpr (Source::kNibbles > 0) Repack<Source>::nibbles(values, 0, kChunkBytes, tile);
  if constexpr (Source::kNibbles > 1) Repack<Source>::nibbles(values, 4, kChunkBytes, tile + 512);
  constexpr int kAfterNibbles = kColumns / 64 * kChunkBytes;
  if constexpr (Source::kTwoBits > 0)
    Repack<Source>::two_bits(values, 4 * Source::kNibbles, tile + kAfterNibbles);
  constexpr int kAfterTwoBits = kAfterNibbles + 1024 * Source::kTwoBits;
  if constexpr (Source::kOneBit > 0)
    Repack<Source>::one_bit(values, 4 * Source::kNibbles + 2 * Source::kTwoBits, tile + kAfterTwoBits);
}

template <typename Source>
void repack(CudaStream& stream, const uint8_t* raw, int64_t rows, int64_t columns, uint8_t* out) {
  const int64_t across = column_tiles(Source::kDType, columns);
  launch(stream, "repack_blocks", {.grid = blocks_for(row_tiles(rows) * across, 1), .block = kThreads},
         repack_kernel<Source>, raw, rows, columns, static_cast<int>(across), out);
}

void repack(CudaStream& stream, DType dtype, const uint8_t* raw, int64_t rows, int64_t columns,
            uint8_t* out) {
  switch (dtype) {
    case DType::kQ4_K:
      return repack<SourceQ4K>(stream, raw, rows, columns, out);
    case DType::kQ5_K:
      return repack<SourceQ5K>(stream, raw, rows, columns, out);
    case DType::kQ6_K:
      return repack<SourceQ6K>(stream, raw, rows, columns, out);
    case DType::kQ3_K:
      return repack<SourceQ3K>(stream, raw, rows, columns, out);
    case DType::kQ2_K:
      return repack<SourceQ2K>(stream, raw, rows, columns, out);
    case DType::kQ8_0:
      return repack<SourceQ8_0>(stream, raw, rows, columns, out);
    case DType::kQ4_0:
      return repack<SourceQ4_0>(stream, raw, rows, columns, out);
    default:
      ONGGI_CHECK(false, "a dtype that is placed in tiles");
  }
}

}  // namespace

WeightView place_block_weight(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers) {
  auto& cuda = static_cast<CudaStream&>(stream);
  const int64_t row_bytes = dtype_bytes(host.dtype, host.columns);
  buffers.push_back(stream.allocate(static_cast<size_t>(placed_bytes(host.dtype, host.rows, host.columns))));
  auto* placed = buffers.back().as<uint8_t>();
  const int64_t tile_row_bytes = column_tiles(host.dtype, host.columns) * placed_tile(host.dtype).bytes;
  const int64_t piece_rows = std::max<int64_t>(kPieceBytes / row_bytes / kTileRows, 1) * kTileRows;
  const auto* bytes = static_cast<const uint8_t*>(host.data);
  auto* raw =
      static_cast<uint8_t*>(cuda.scratch(static_cast<size_t>(std::min(piece_rows, host.rows) * row_bytes)));
  for (int64_t row = 0; row < host.rows; row += piece_rows) {
    const int64_t rows = std::min(piece_rows, host.rows - row);
    stream.copy_in(raw, bytes + row * row_bytes, static_cast<size_t>(rows * row_bytes));
    repack(cuda, host.dtype, raw, rows, host.columns, placed + row / kTileRows * tile_row_bytes);
  }
  WeightView view = host;
  view.data = placed;
  return view;
}

}  // namespace onggi::cuda

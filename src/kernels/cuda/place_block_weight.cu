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
#include "kernels/cuda/place_file_weights.h"
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

// d, dmin, and scales and minimums regrouped: byte p of three words is of lane p.
template <typename Block>
__device__ void store_six_bit_scales(Raw<Block> block, uint8_t* to) {
  for (int i = 0; i < 4; ++i) to[i] = block.at[i];
  const uint8_t* packed = block.at + 4;  // blocks/q4_k.h: q4k_scale_min
  for (int p = 0; p < 4; ++p) {
    uint32_t bits = 0;
    for (int group = 0; group < 2; ++group) {
      const int s = 2 * p + group;
      const uint32_t scale = s < 4 ? packed[s] & 63 : (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
      const uint32_t minimum = s < 4 ? packed[s + 4] & 63 : packed[s + 4] >> 4 | (packed[s] >> 6) << 4;
      bits |= (scale | minimum << 6) << (12 * group);
    }
    for (int i = 0; i < 3; ++i) to[4 + 4 * i + p] = static_cast<uint8_t>(bits >> (8 * i));
  }
}

// For each dtype: value k of a block as the unsigned number whose bits the planes hold, and the scales.
struct SourceQ4K {
  using Block = BlockQ4K;
  static constexpr DType kDType = DType::kQ4_K;
  static constexpr int kBits = 4;
  static __device__ int value(Raw<Block> block, int k) {
    return block.byte(offsetof(Block, qs) + 32 * (k / 64) + k % 32) >> (4 * (k / 32 % 2)) & 15;
  }
  static __device__ void scales(Raw<Block> block, int row, int, uint8_t* to) {
    store_six_bit_scales(block, to + 16 * row);
  }
};

struct SourceQ5K {
  using Block = BlockQ5K;
  static constexpr DType kDType = DType::kQ5_K;
  static constexpr int kBits = 5;
  static __device__ int value(Raw<Block> block, int k) {
    const int low = block.byte(offsetof(Block, qs) + 32 * (k / 64) + k % 32) >> (4 * (k / 32 % 2)) & 15;
    return low | (block.byte(offsetof(Block, qh) + k % 32) >> (k / 32) & 1) << 4;
  }
  static __device__ void scales(Raw<Block> block, int row, int, uint8_t* to) {
    store_six_bit_scales(block, to + 16 * row);
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
  static constexpr int kBits = 6;
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
  static constexpr int kBits = 3;
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
  static constexpr int kBits = 2;
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
  static constexpr int kBits = 8;
  static __device__ int value(Raw<Block> block, int k) { return block.byte(offsetof(Block, qs) + k) ^ 0x80; }
  static __device__ void scales(Raw<Block> block, int row, int index, uint8_t* to) {
    for (int i = 0; i < 2; ++i) to[16 * row + 2 * index + i] = block.at[i];
  }
};

struct SourceQ4_0 {
  using Block = BlockQ4_0;
  static constexpr DType kDType = DType::kQ4_0;
  static constexpr int kBits = 4;
  static __device__ int value(Raw<Block> block, int k) {
    return block.byte(offsetof(Block, qs) + k % 16) >> (4 * (k / 16)) & 15;
  }
  static __device__ void scales(Raw<Block> block, int row, int index, uint8_t* to) {
    for (int i = 0; i < 2; ++i) to[16 * row + 2 * index + i] = block.at[i];
  }
};

// Values of a tile, and the lane (g, p) that has them.
using Values = uint8_t[kTileRows][kTileColumns];
__device__ __forceinline__ uint32_t value_of(const Values& values, int lane, int r, int u, int column) {
  return values[lane / 4 + 8 * r][64 * (lane % 4) + 16 * u + column];
}

// The planes of placed_layout.h, a word a thread. [unit][r][lane] four words:
__device__ void store_bytes(const Values& values, uint8_t* to) {
  for (int i = threadIdx.x; i < 4 * 2 * kWarp * 4; i += kThreads) {
    const int word = i % 4, lane = i / 4 % kWarp, r = i / (4 * kWarp) % 2, u = i / (8 * kWarp);
    uint32_t bits = 0;
    for (int k = 0; k < 8; ++k) {
      const int byte = byte_of_column(k);
      if (byte / 4 == word % 2) bits |= value_of(values, lane, r, u, 8 * (word / 2) + k) << (8 * (byte % 4));
    }
    reinterpret_cast<uint32_t*>(to)[i] = bits;
  }
}
// [unit][lane] four words
__device__ void store_nibbles(const Values& values, int destination, uint8_t* to) {
  for (int i = threadIdx.x; i < 4 * kWarp * 4; i += kThreads) {
    const int r = i / 2 % 2, half = i % 2, lane = i / 4 % kWarp, u = i / (4 * kWarp);
    uint32_t bits = 0;
    for (int k = 0; k < 8; ++k) {
      const uint32_t value = value_of(values, lane, r, u, 8 * half + k) & 15u;
      const int at = nibble_bit(destination, byte_of_column(k));
      bits |= value << at;
      if (at > 28) bits |= value >> (32 - at);
    }
    reinterpret_cast<uint32_t*>(to)[i] = bits;
  }
}
// Bits `from` and from + 1: [unit][lane] two words
__device__ void store_two_bits(const Values& values, int from, uint8_t* to) {
  for (int i = threadIdx.x; i < 4 * kWarp * 2; i += kThreads) {
    const int r = i % 2, lane = i / 2 % kWarp, u = i / (2 * kWarp);
    uint32_t bits = 0;
    for (int k = 0; k < 16; ++k) {
      const int byte = byte_of_column(k % 8), word = 2 * (k / 8) + byte / 4;
      bits |= (value_of(values, lane, r, u, k) >> from & 3u) << (8 * (byte % 4) + 2 * word);
    }
    reinterpret_cast<uint32_t*>(to)[i] = bits;
  }
}
// Bit `from`: [unit][lane] one word
__device__ void store_one_bit(const Values& values, int from, uint8_t* to) {
  for (int i = threadIdx.x; i < 4 * kWarp; i += kThreads) {
    const int lane = i % kWarp, u = i / kWarp;
    uint32_t bits = 0;
    for (int r = 0; r < 2; ++r)
      for (int k = 0; k < 16; ++k) {
        const int byte = byte_of_column(k % 8), word = 2 * (k / 8) + byte / 4;
        bits |= (value_of(values, lane, r, u, k) >> from & 1u) << (8 * (byte % 4) + 4 * r + word);
      }
    reinterpret_cast<uint32_t*>(to)[i] = bits;
  }
}

// raw: `rows` rows of K / kElements blocks; blockIdx.x is the tile of the output.
template <typename Source>
__global__ void __launch_bounds__(kThreads)
    repack_kernel(const uint8_t* raw, int64_t rows, int64_t columns, int across, uint8_t* out) {
  using Block = typename Source::Block;
  constexpr int kColumns = kTileColumns, kBits = Source::kBits;
  constexpr int kTileBytes = placed_tile_bytes(Source::kDType);
  constexpr int kScaleOffset = kTileRows * kTileColumns * kBits / 8;
  __shared__ Values values;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) / across * kTileRows;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) % across * kColumns;
  const int64_t row_blocks = columns / Block::kElements;
  uint8_t* tile = out + static_cast<int64_t>(blockIdx.x) * kTileBytes;
  uint8_t* scales = tile + kScaleOffset;

  // What is outside of the weight has a scale of 0; its values do not matter.
  for (int i = threadIdx.x; i < (kTileBytes - kScaleOffset) / 4; i += kThreads)
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
  // The upper bits of a value follow the lower ones.
  if constexpr (kBits == 8) store_bytes(values, tile);
  if constexpr (kBits >= 4 && kBits < 8) store_nibbles(values, nibble_destination(Source::kDType), tile);
  if constexpr (kBits == 6) store_two_bits(values, 4, tile + 2048);
  if constexpr (kBits == 5) store_one_bit(values, 4, tile + 2048);
  if constexpr (kBits < 4) store_two_bits(values, 0, tile);
  if constexpr (kBits == 3) store_one_bit(values, 2, tile + 1024);
}

template <typename Source>
void repack(CudaStream& stream, const uint8_t* raw, int64_t rows, int64_t columns, uint8_t* out) {
  const int64_t across = column_tiles(columns);
  launch(stream, "repack_blocks", {.grid = blocks_for(row_tiles(rows) * across, 1), .block = kThreads},
         repack_kernel<Source>, raw, rows, columns, static_cast<int>(across), out);
}

}  // namespace

void repack_blocks(CudaStream& stream, DType dtype, const uint8_t* raw, int64_t rows, int64_t columns,
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

WeightView place_block_weight(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers) {
  auto& cuda = static_cast<CudaStream&>(stream);
  const int64_t row_bytes = dtype_bytes(host.dtype, host.columns);
  buffers.push_back(stream.allocate(static_cast<size_t>(placed_bytes(host.dtype, host.rows, host.columns))));
  auto* placed = buffers.back().as<uint8_t>();
  const int64_t tile_row_bytes = column_tiles(host.columns) * placed_tile_bytes(host.dtype);
  const int64_t piece_rows = std::max<int64_t>(kPieceBytes / row_bytes / kTileRows, 1) * kTileRows;
  const auto* bytes = static_cast<const uint8_t*>(host.data);
  auto* raw =
      static_cast<uint8_t*>(cuda.scratch(static_cast<size_t>(std::min(piece_rows, host.rows) * row_bytes)));
  for (int64_t row = 0; row < host.rows; row += piece_rows) {
    const int64_t rows = std::min(piece_rows, host.rows - row);
    stream.copy_in(raw, bytes + row * row_bytes, static_cast<size_t>(rows * row_bytes));
    repack_blocks(cuda, host.dtype, raw, rows, host.columns, placed + row / kTileRows * tile_row_bytes);
  }
  WeightView view = host;
  view.data = placed;
  return view;
}

}  // namespace onggi::cuda

#include <algorithm>

#include "kernels/cuda/block_weight.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/placed_formats.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// Where 8 neighbouring values go; whole rows lie at multiples of 16 bytes or not.
template <typename T>
__device__ __forceinline__ void store(T* to, bool has_vectors, const float (&values)[8]) {
  if (has_vectors) return store_8(to, values);
#pragma unroll
  for (int i = 0; i < 8; ++i) store_f32(to + i, values[i]);
}

struct Matrix {
  const uint8_t* data;
  int across;        // tiles along a row
  int64_t columns;   // K
  int64_t stride;    // of the output
  bool has_vectors;  // of the output
};

// The values of lane (g, p) in rows g and g + 8 of a tile; rows[r] is where row g + 8 r begins, null for a
// row that is not wanted.
template <typename Format, typename T>
__device__ __forceinline__ void decode_tile(const Matrix& m, const uint8_t* tile, int column_tile,
                                            T* const (&rows)[2]) {
  const int lane = lane_index();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (rows[r] == nullptr) continue;
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      Scale scales[Format::kGroups];
      Format::scales(tile, lane / 4 + 8 * r, lane % 4, u / 2, scales);
      const typename Format::Unit unit = Format::unit(tile, lane, u);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        // K is a multiple of 32: eight neighbours are inside or outside together.
        const int64_t k =
            kTileColumns * static_cast<int64_t>(column_tile) + 64 * (lane % 4) + 16 * u + 8 * half;
        if (k >= m.columns) continue;
        float values[8];
        decode_eight<Format>(unit, scales[Format::kGroups == 2 ? u % 2 : 0], half, r, values);
        store(rows[r] + k, m.has_vectors, values);
      }
    }
  }
}

// The same for bf16 rows at multiples of 16 bytes: the lanes' stretches of 64 columns cross over in shared
// memory, `room`, so that whole rows leave in one store each. Eight columns number n of row g lie at
// n ^ (n / 8 + 4 (g % 2)), so that neither side meets in a bank.
template <typename Format>
__device__ __forceinline__ void decode_tile_by_rows(const Matrix& m, const uint8_t* tile, int column_tile,
                                                    int rows, BFloat16* out, uint4* room) {
  constexpr int kEights = kTileColumns / 8;
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  const int64_t k = kTileColumns * static_cast<int64_t>(column_tile) + 8 * lane;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      Scale scales[Format::kGroups];
      Format::scales(tile, group + 8 * r, pair, u / 2, scales);
      const typename Format::Unit unit = Format::unit(tile, lane, u);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float values[8];
        decode_eight<Format>(unit, scales[Format::kGroups == 2 ? u % 2 : 0], half, r, values);
        const int eight = 8 * pair + 2 * u + half;
        room[kEights * group + (eight ^ (pair + 4 * (group % 2)))] = pack_bf16_8(values);
      }
    }
    __syncwarp();
#pragma unroll
    for (int row = 0; row < 8; ++row) {
      const uint4 bits = room[kEights * row + (lane ^ (lane / 8 + 4 * (row % 2)))];
      if (row + 8 * r < rows && k < m.columns)
        *reinterpret_cast<uint4*>(out + (row + 8 * r) * m.stride + k) = bits;
    }
    __syncwarp();
  }
}

// A warp takes a tile. Per weight 0.56 bytes are read (Q4_K) and 2 written: 4096 x 12288 in 45 us on an H100.
template <typename Format, typename T>
__global__ void __launch_bounds__(kThreads)
    dequantize_kernel(Matrix m, int64_t first_row, int64_t rows, int64_t tiles, T* out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp_index();
  if (index >= tiles) return;
  const int64_t row_tile = index / m.across;
  const int column_tile = static_cast<int>(index % m.across);
  const uint8_t* tile = m.data + (first_row / kTileRows * m.across + index) * Format::kBytes;
  if constexpr (sizeof(T) == 2) {
    __shared__ uint4 room[kWarps][8 * kTileColumns / 8];
    if (m.has_vectors) {
      const auto left = static_cast<int>(min(rows - kTileRows * row_tile, int64_t{kTileRows}));
      decode_tile_by_rows<Format>(m, tile, column_tile, left, out + kTileRows * row_tile * m.stride,
                                  room[warp_index()]);
      return;
    }
  }
  const int64_t row = kTileRows * row_tile + lane_index() / 4;
  T* const to[2] = {row < rows ? out + row * m.stride : nullptr,
                    row + 8 < rows ? out + (row + 8) * m.stride : nullptr};
  decode_tile<Format>(m, tile, column_tile, to);
}

// A warp takes a tile of the table for one token. A token's row is read with its 15 neighbours: little work.
template <typename Format, typename T>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(Matrix m, const int32_t* ids, int64_t warps, T* out) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp_index();
  if (index >= warps) return;
  const int64_t token = index / m.across;
  const int column_tile = static_cast<int>(index % m.across);
  const int64_t row = ids[token];
  const int in_tile = static_cast<int>(row % kTileRows);
  T* const line = lane_index() / 4 == in_tile % 8 ? out + token * m.stride : nullptr;
  T* const to[2] = {in_tile < 8 ? line : nullptr, in_tile < 8 ? nullptr : line};
  decode_tile<Format>(m, m.data + (row / kTileRows * m.across + column_tile) * Format::kBytes, column_tile,
                      to);
}

template <typename T>
Matrix matrix_of(const WeightView& weight, int64_t stride, const T* out) {
  constexpr int64_t kVector = 16 / sizeof(T);
  return {.data = static_cast<const uint8_t*>(weight.data),
          .across = static_cast<int>(column_tiles(weight.columns)),
          .columns = weight.columns,
          .stride = stride,
          .has_vectors = stride % kVector == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0};
}

template <typename T>
void dequantize(CudaStream& stream, const DequantizeBlockArgs& args, T* out) {
  ONGGI_CHECK(args.first_row % kTileRows == 0 && args.first_row + args.rows <= args.weight.rows);
  const Matrix matrix = matrix_of(args.weight, args.stride, out);
  const int64_t tiles = row_tiles(args.rows) * matrix.across;
  const bool known = with_placed_format(args.weight.dtype, [&]<typename Format>(Format) {
    launch(stream, "dequantize_block_weight", {.grid = blocks_for(tiles, kWarps), .block = kThreads},
           dequantize_kernel<Format, T>, matrix, args.first_row, args.rows, tiles, out);
  });
  ONGGI_CHECK(known, "a weight that is placed in tiles");
}

template <typename T>
void embed(CudaStream& stream, const EmbeddingArgs& args, T* out) {
  const Matrix matrix = matrix_of(args.table, args.table.columns, out);
  const int64_t warps = args.tokens * matrix.across;
  const bool known = with_placed_format(args.table.dtype, [&]<typename Format>(Format) {
    launch(stream, "embedding_block", {.grid = blocks_for(warps, kWarps), .block = kThreads},
           embedding_kernel<Format, T>, matrix, args.ids, warps, out);
  });
  ONGGI_CHECK(known, "a table that is placed in tiles");
}

}  // namespace

void dequantize_block_weight(CudaStream& stream, const DequantizeBlockArgs& args, __nv_bfloat16* out) {
  dequantize(stream, args, out);
}
void dequantize_block_weight(CudaStream& stream, const DequantizeBlockArgs& args, float* out) {
  dequantize(stream, args, out);
}

void embedding_block(const OpContext& context, const EmbeddingArgs& args) {
  CudaStream& stream = cuda_stream(context);
  if (args.out.dtype == DType::kBF16) {
    embed(stream, args, args.out.as<BFloat16>());
  } else {
    embed(stream, args, args.out.as<float>());
  }
}

}  // namespace onggi::cuda

// What the attention kernels for training share: tiles of rows of bf16 in shared memory, the products of a
// warp over them, and the order of the tiles.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/launch.cuh"

namespace onggi::cuda {

// Rows of kHeadDim bf16 in shared memory, dense, their 16-byte pieces swapped so that ldmatrix meets no bank
// twice: piece c of row r lies where c XOR (r % 8) would. A warp reads 16 x 16 blocks that begin at a
// multiple of 8 rows; what the swap does to a lane's address then depends on the lane alone.
template <int kHeadDim>
struct Tile {
  static_assert(kHeadDim % 64 == 0);
  static constexpr int kPieces = kHeadDim / 8;

  static __device__ __forceinline__ int offset(int row, int piece) {  // in elements
    return row * kHeadDim + (piece ^ (row & 7)) * 8;
  }
};

// Where a lane's ldmatrix addresses lie in a block of 16 x 16, in elements: matrices 0, 1 are rows 0-7 and
// 8-15 of the first 8 columns, 2, 3 those of the next 8. As it is that is mma's A. Where rows are mma's n and
// columns its k, matrices 0, 2 are b0, b1 of the first 8 rows, and 1, 3 of the next; where rows are k and
// columns n (_trans), 0, 1 are b0, b1 of the first 8 columns, and 2, 3 of the next.
template <int kHeadDim>
struct LaneOffsets {
  __device__ __forceinline__ LaneOffsets()
      : offset(Tile<kHeadDim>::offset(lane_index() & 15, lane_index() >> 4)) {}
  // Of columns 16 * block .. + 15.
  __device__ __forceinline__ int operator[](int block) const {
    return (offset ^ (block % 4 * 16)) + block / 4 * 64;  // pieces 2 block and 2 block + 1
  }

  int offset;
};

// Copies rows first .. first + kRows - 1 of one head into a tile, beside the arithmetic (cp.async; the caller
// commits). Rows from `end` on become zero. `head` points to row 0 of the head, rows lie `stride` elements
// apart.
template <int kHeadDim, int kRows, int kThreads>
__device__ __forceinline__ void copy_tile(BFloat16* tile, const BFloat16* head, int64_t stride, int first,
                                          int end) {
  constexpr int kPieces = Tile<kHeadDim>::kPieces;
  constexpr int kRowsAtOnce = kThreads / kPieces;
  static_assert(kRows % kRowsAtOnce == 0);
  static_assert(kRowsAtOnce % 8 == 0, "the swap is the same for all rows of a thread");
  const int piece = static_cast<int>(threadIdx.x) % kPieces, row = static_cast<int>(threadIdx.x) / kPieces;
  BFloat16* to = tile + Tile<kHeadDim>::offset(row, piece);
  const BFloat16* from = head + (first + row) * stride + piece * 8;
#pragma unroll
  for (int i = 0; i < kRows; i += kRowsAtOnce) {
    const bool inside = first + row + i < end;
    cp_async_16(to + i * kHeadDim, inside ? from : head, inside ? 16 : 0);
    from += kRowsAtOnce * stride;
  }
}

// A fragment of 16 rows and columns 16 * block .. + 15 of a tile, from `row` (a multiple of 8) on.
template <int kHeadDim>
__device__ __forceinline__ void load_rows(uint32_t (&a)[4], const BFloat16* tile, int row, int block,
                                          const LaneOffsets<kHeadDim>& lane) {
  ldmatrix_x4(a, tile + row * kHeadDim + lane[block]);
}

// sums += A B^T: A the fragment of columns 16 * block .. + 15, B 8 * kBlocks rows of the tile from `row` on.
template <int kHeadDim, int kBlocks>
__device__ __forceinline__ void multiply_by_rows(float (&sums)[kBlocks][4], const uint32_t (&a)[4],
                                                 const BFloat16* tile, int row, int block,
                                                 const LaneOffsets<kHeadDim>& lane) {
#pragma unroll
  for (int n = 0; n < kBlocks; n += 2) {
    uint32_t b[4];
    ldmatrix_x4(b, tile + (row + n * 8) * kHeadDim + lane[block]);
    mma_m16n8k16_bf16(sums[n], a, b[0], b[2]);
    mma_m16n8k16_bf16(sums[n + 1], a, b[1], b[3]);
  }
}

// sums += A B: A [16, 16] a fragment, B the 16 rows of the tile from `row` on, all columns.
template <int kHeadDim>
__device__ __forceinline__ void multiply_by_columns(float (&sums)[kHeadDim / 8][4], const uint32_t (&a)[4],
                                                    const BFloat16* tile, int row,
                                                    const LaneOffsets<kHeadDim>& lane) {
#pragma unroll
  for (int block = 0; block < kHeadDim / 16; ++block) {
    uint32_t b[4];
    ldmatrix_x4_trans(b, tile + row * kHeadDim + lane[block]);
    mma_m16n8k16_bf16(sums[2 * block], a, b[0], b[1]);
    mma_m16n8k16_bf16(sums[2 * block + 1], a, b[2], b[3]);
  }
}

// Columns 16 * block .. + 15 of a product, rounded, as the A of the next.
template <int kBlocks>
__device__ __forceinline__ void as_fragment(uint32_t (&a)[4], const float (&product)[kBlocks][4], int block) {
  a[0] = pack_bf16(product[2 * block][0], product[2 * block][1]);
  a[1] = pack_bf16(product[2 * block][2], product[2 * block][3]);
  a[2] = pack_bf16(product[2 * block + 1][0], product[2 * block + 1][1]);
  a[3] = pack_bf16(product[2 * block + 1][2], product[2 * block + 1][3]);
}

// Writes a warp's 16 rows of sums, rows g and g + 8 of each lane times factor[0], factor[1], to rows
// first .. first + 15 of the head, those before `end`. `staging`: 16 rows of a tile that only this warp uses,
// from a multiple of 8 rows on: with it each row is stored in pieces of 16 bytes.
template <int kHeadDim>
__device__ __forceinline__ void store_rows(const float (&sums)[kHeadDim / 8][4], const float (&factor)[2],
                                           BFloat16* staging, BFloat16* head, int64_t stride, int first,
                                           int end) {
  constexpr int kPieces = Tile<kHeadDim>::kPieces;
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  __syncwarp();  // the lanes' reads of what lay there
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; ++n) {
    uint32_t* upper = reinterpret_cast<uint32_t*>(staging + Tile<kHeadDim>::offset(group, n)) + pair;
    uint32_t* lower = reinterpret_cast<uint32_t*>(staging + Tile<kHeadDim>::offset(group + 8, n)) + pair;
    *upper = pack_bf16(sums[n][0] * factor[0], sums[n][1] * factor[0]);
    *lower = pack_bf16(sums[n][2] * factor[1], sums[n][3] * factor[1]);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * kPieces / kWarp; ++i) {
    const int row = (i * kWarp + lane) / kPieces, piece = (i * kWarp + lane) % kPieces;
    if (first + row < end)
      *reinterpret_cast<uint4*>(head + (first + row) * stride + piece * 8) =
          *reinterpret_cast<const uint4*>(staging + Tile<kHeadDim>::offset(row, piece));
  }
}

// The tile of this block, whose rank is blockIdx.y: order[rank]; where order is null the tiles as they lie,
// those first that a lone segment makes long.
template <TileWork kWork>
__device__ __forceinline__ int tile_of_block(const int32_t* order) {
  if (order != nullptr) return order[blockIdx.y];
  return static_cast<int>(kWork == TileWork::kRowsBefore ? gridDim.y - 1 - blockIdx.y : blockIdx.y);
}

}  // namespace onggi::cuda

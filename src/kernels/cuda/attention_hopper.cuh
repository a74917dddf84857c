// What Hopper's kernels of attention for training share: one warpgroup copies, two compute.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/hopper.cuh"

namespace onggi::cuda::hopper {

inline constexpr int kHeadDim = 128;
inline constexpr int kGroup = 128;           // threads of a warpgroup
inline constexpr int kThreads = 3 * kGroup;  // the first copies
inline constexpr int kComputingWarps = 8;
// Registers per thread of the copying and the computing groups: together what 384 threads with 168 have.
inline constexpr int kCopyingRegisters = 24, kComputingRegisters = 240;

// kRows rows of 128 columns, as two boxes of 64 columns.
template <int kRows>
struct Boxes {
  static constexpr int kBox = kRows * 64;  // elements
  static constexpr int kBytes = kRows * kHeadDim * static_cast<int>(sizeof(BFloat16));
  BFloat16 data[kRows * kHeadDim];

  // Queues the copy of rows row .. of a head.
  __device__ __forceinline__ void copy(const TensorMap& map, int head, int row, uint64_t* barrier) {
    copy_box(data, &map, 0, head, row, barrier);
    copy_box(data + kBox, &map, 64, head, row, barrier);
  }
  // Descriptors (wgmma_by_rows, wgmma_by_columns) of what begins at `row`, a multiple of 8, and column 0.
  __device__ __forceinline__ uint64_t by_rows(int row) const { return wgmma_by_rows(data + row * 64); }
  __device__ __forceinline__ uint64_t by_columns() const {
    return wgmma_by_columns(data, kBox * static_cast<int>(sizeof(BFloat16)));
  }
  // What they grow by up to columns 16 * block .. + 15, and to rows 16 * step .. + 15.
  static constexpr uint64_t columns_on(int block) { return (block / 4 * kBox + block % 4 * 16) / 8; }
  static constexpr uint64_t rows_on(int step) { return step * 16 * 64 / 8; }
};

// Readies the barriers of a kernel that gets queries and, in stages, keys and values. Called by one thread.
template <typename Shared>
__device__ __forceinline__ void init_barriers(Shared& shared) {
  constexpr int kStages = sizeof(shared.keys_full) / sizeof(uint64_t);
  mbarrier_init(&shared.queries_full, 1);
  mbarrier_init(&shared.queries_empty, kComputingWarps);
  for (int stage = 0; stage < kStages; ++stage) {
    mbarrier_init(&shared.keys_full[stage], 1);
    mbarrier_init(&shared.values_full[stage], 1);
    mbarrier_init(&shared.keys_empty[stage], kComputingWarps);
    mbarrier_init(&shared.values_empty[stage], kComputingWarps);
  }
  mbarrier_init_fence();
}

// Keeps what is computed from a descriptor where it is used: all of a loop's descriptors together are more
// than there are registers for.
__device__ __forceinline__ uint64_t here(uint64_t descriptor) {
  wgmma_pin(descriptor);
  return descriptor;
}

// d [64, n] = the 64 rows of `a` from a_row on times the n rows of `b`, over their 128 columns. Not
// committed.
template <int kBlocks, int kRowsA>
__device__ __forceinline__ void multiply_rows(float (&d)[kBlocks][4], const Boxes<kRowsA>& a, int a_row,
                                              const Boxes<kBlocks * 8>& b) {
  const uint64_t a_rows = here(a.by_rows(a_row)), b_rows = here(b.by_rows(0));
#pragma unroll
  for (int block = 0; block < kHeadDim / 16; ++block)
    wgmma(d, a_rows + Boxes<kRowsA>::columns_on(block), b_rows + Boxes<kBlocks * 8>::columns_on(block),
          block == 0 ? Sums::kNew : Sums::kAdd);
}

// sums [64, 128] += a [64, rows of b] b. Not committed.
template <int kRows>
__device__ __forceinline__ void add_product(float (&sums)[kHeadDim / 8][4],
                                            const uint32_t (&a)[kRows / 16][4], const Boxes<kRows>& b) {
  const uint64_t b_columns = here(b.by_columns());
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step)
    wgmma_add_by_columns(sums, a[step], b_columns + Boxes<kRows>::rows_on(step));
}

// Which turn of a ring of stages it is, and with which parity its barriers end.
template <int kStages>
struct Ring {
  int stage = 0, parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

// Items of work are given to the blocks in rounds, forwards and backwards in turns, so that a block which had
// the longest of a round has the shortest of the next. Item `i` is head i % heads of the tile of rank
// i / heads.
struct Item {
  int tile, head;
};
template <TileWork kWork>
__device__ __forceinline__ bool item_of_round(int round, int tiles, int heads, const int32_t* order,
                                              Item& item) {
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  const int index = round * blocks + (round % 2 == 0 ? block : blocks - 1 - block);
  if (index >= tiles * heads) return false;
  const int rank = index / heads;
  item.head = index % heads;
  item.tile = order != nullptr ? order[rank] : kWork == TileWork::kRowsBefore ? tiles - 1 - rank : rank;
  return true;
}

// One lane of each computing warp says that the warp is done with something.
__device__ __forceinline__ void release(uint64_t* barrier) {
  __syncwarp();  // every lane is done
  if (lane_index() == 0) mbarrier_arrive(barrier);
}

}  // namespace onggi::cuda::hopper

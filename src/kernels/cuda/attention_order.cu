#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
// More tiles than this are many turns of all multiprocessors, and the last turn costs little.
constexpr int64_t kMostTiles = 2048;

// Rows that tile has to do with.
__device__ int work_of(TileWork work, int tile, int rows, const int32_t* bounds, int tokens) {
  const int first = tile * rows, last = min(first + rows, tokens) - 1;
  return work == TileWork::kRowsBefore ? last + 1 - bounds[first] : bounds[last] - first;
}

// ranks[i] = the tile that has i tiles before it, those with more work or the same work and a lower index.
// `bounds`: first_row for kRowsBefore, end_row for kRowsAfter. One thread per tile; tiles^2 comparisons.
__global__ void __launch_bounds__(kThreads)
    order_tiles_kernel(TileWork work, int tiles, int rows, const int32_t* bounds, int tokens,
                       int32_t* ranks) {
  __shared__ int works[kThreads];
  const int tile = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  const int own = tile < tiles ? work_of(work, tile, rows, bounds, tokens) : 0;
  int rank = 0;
  for (int first = 0; first < tiles; first += kThreads) {
    const int other = first + static_cast<int>(threadIdx.x);
    works[threadIdx.x] = other < tiles ? work_of(work, other, rows, bounds, tokens) : -1;
    __syncthreads();
    for (int i = 0; i < kThreads; ++i) rank += works[i] > own || (works[i] == own && first + i < tile);
    __syncthreads();  // before `works` is written again
  }
  if (tile < tiles) ranks[rank] = tile;
}

}  // namespace

size_t tile_order_bytes(const TileOrder& order) {
  return (static_cast<size_t>(order.tiles) * sizeof(int32_t) + 255) / 256 * 256;
}

const int32_t* order_tiles(CudaStream& stream, const TileOrder& order, const Segments& segments,
                           int64_t tokens, int32_t* ranks) {
  // The tiles of one segment lie in order; blocks that all run at once need none.
  const bool all_at_once = order.tiles * order.blocks_per_tile <= stream.multiprocessors();
  if (segments.count == 1 || all_at_once || order.tiles > kMostTiles) return nullptr;
  launch(stream, "order_tiles", {.grid = blocks_for(order.tiles, kThreads), .block = kThreads},
         order_tiles_kernel, order.work, static_cast<int>(order.tiles), order.rows,
         order.work == TileWork::kRowsBefore ? segments.first_row : segments.end_row,
         static_cast<int>(tokens), ranks);
  return ranks;
}

}  // namespace onggi::cuda

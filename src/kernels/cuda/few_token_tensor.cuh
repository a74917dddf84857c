// The kernel of few_token.h: outputs of up to 8 kTiles / kSpread tokens by tensor core products.
//
// A block has a slice of the activations in shared memory and takes steps of row_warps tiles of 16 rows,
// every gridDim.x-th of all members; column_warps warps share the columns of a tile. Each warp has its own
// ring of tiles in shared memory that asynchronous copies keep full, so the memory is kept busy from the
// first instruction on: weights do not depend on the kernel before, whose end is waited for after the first
// copies are queued.
//
// Up to 8 tokens the warps' sums meet in shared memory, in the order of the columns, and the block finishes
// the outputs; with more tokens or several slices parts go to memory and launch_few_token_finish adds them.
#pragma once

#include "kernels/cuda/few_token_weights.cuh"

namespace onggi::cuda {

template <int kTiles, int kSpread>
struct FewTokenShape {
  static constexpr int kTokens = 8 * kTiles / kSpread;
  static constexpr int kColumnTokens = 8 / kSpread;
  // With 3 to 8 tokens the arithmetic needs more warps to keep up with the memory; fewer leave room for a
  // block of the next kernel, which fills its rings meanwhile.
  static constexpr int kWarps = kTiles == 1 && kSpread == 1 ? 16 : 8;
  static constexpr int kThreads = kWarps * kWarp;
  // Blocks of a multiprocessor that registers are kept for.
  static constexpr int kBlocks = kTiles == 8 || kWarps == 16 ? 1 : 2;
  // Sums of one warp and 8 tokens between the warps: [token][20], 16 rows and room against bank conflicts.
  static constexpr int kPartialFloats = 20 * kColumnTokens;
};

// A warp's way through the tiles of a run: its columns of a step, then the next step of the block.
template <typename Weights>
struct TileCursor {
  int step, column;
  __device__ __forceinline__ void advance(const FewTokenParams& p, int first_column, int columns) {
    column += p.column_warps;
    if (column < columns) return;
    column = first_column;
    step += static_cast<int>(gridDim.x);
  }
};

// Adds the warps' sums up and finishes the block's outputs of one step.
template <int kTiles, int kSpread>
__device__ __forceinline__ void finish_step(const FewTokenParams& p, const FewTokenRun& run, int first_tile,
                                            int columns_used, const float* partials,
                                            const float* inverse_rms) {
  using Shape = FewTokenShape<kTiles, kSpread>;
  const bool gated = p.activate == Activate::kGate;
  const int outputs = gated ? p.row_warps / 2 : p.row_warps;
  for (int i = threadIdx.x; i < kTileRows * outputs * p.tokens; i += Shape::kThreads) {
    const int row_in_tile = i % kTileRows, output = i / kTileRows % outputs, token = i / kTileRows / outputs;
    float sums[2] = {0, 0};
    for (int which = 0; which < (gated ? 2 : 1); ++which) {
      const int row_warp = gated ? 2 * output + which : output;
      for (int column_warp = 0; column_warp < columns_used; ++column_warp)
        sums[which] += partials[(row_warp * p.column_warps + column_warp) * Shape::kPartialFloats +
                                20 * token + row_in_tile];
      sums[which] *= inverse_rms[token];
    }
    const int tile = first_tile + (gated ? 2 * output : output);
    if (tile >= run.tiles) continue;
    const TileOwner owner = tile_owner(p, run, tile);
    const FewTokenMember& member = p.members[owner.member];
    const int row = kTileRows * owner.tile + row_in_tile;
    if (p.partials != nullptr) {
      p.partials[(static_cast<int64_t>(blockIdx.y) * p.tokens + token) * p.partial_rows + member.first_row +
                 row] = sums[0];
      if (gated)
        p.partials[(static_cast<int64_t>(blockIdx.y) * p.tokens + token) * p.partial_rows +
                   p.members[1].first_row + row] = sums[1];
      continue;
    }
    if (row >= member.rows) continue;
    if (gated) {
      store_gated(p, row, token, sums[0], sums[1]);
    } else {
      store_output(p, member, row, token, sums[0]);
    }
  }
}

// A warp's sums, straight to memory.
template <int kTiles>
__device__ __forceinline__ void store_part(const FewTokenParams& p, const FewTokenRun& run, int tile,
                                           int column_warp, const float (&sums)[kTiles][4]) {
  const TileOwner owner = tile_owner(p, run, tile);
  const int group = lane_index() / 4, pair = lane_index() % 4;
  const int64_t part = static_cast<int64_t>(blockIdx.y) * p.column_warps + column_warp;
  float* to = p.partials + part * p.tokens * p.partial_rows + p.members[owner.member].first_row +
              kTileRows * owner.tile + group;
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 8 * n + 2 * pair + i % 2;
      if (token < p.tokens) to[token * p.partial_rows + 8 * (i / 2)] = sums[n][i];
    }
}

// Until the oldest of `slots` - 1 copies on their way is there.
__device__ __forceinline__ void wait_for_tile(int slots) {
  if (slots == 4) {
    cp_async_wait<2>();
  } else if (slots == 3) {
    cp_async_wait<1>();
  } else {
    cp_async_wait<0>();
  }
}

template <typename Weights, int kTiles, int kSpread>
__device__ __forceinline__ void take_run(const FewTokenParams& p, const FewTokenRun& run, int first_step,
                                         bool stage, int& step_count, unsigned char* shared) {
  using Shape = FewTokenShape<kTiles, kSpread>;
  const int slots = p.shared.ring_slots;
  const int warp = warp_index(), lane = lane_index();
  const int row_warp = warp / p.column_warps, column_warp = warp % p.column_warps;
  const int run_steps = (run.tiles + p.row_warps - 1) / p.row_warps;
  const int end_step = run.first_step + run_steps;
  // Tiles of the slice along K.
  const int slice_tiles = p.slice_columns / Weights::kColumns;
  const int all_tiles = (p.columns + Weights::kColumns - 1) / Weights::kColumns;
  const int slice_begin = static_cast<int>(blockIdx.y) * slice_tiles;
  const int columns = min(slice_tiles, all_tiles - slice_begin);
  unsigned char* ring = shared + p.shared.ring + warp * slots * p.shared.ring_slot;

  TileCursor<Weights> next{column_warp < columns ? first_step : end_step, column_warp};
  int next_slot = 0;
  const auto issue = [&] {
    const int tile = (next.step - run.first_step) * p.row_warps + row_warp;
    if (next.step < end_step && tile < run.tiles) {
      const TileOwner owner = tile_owner(p, run, tile);
      Weights::issue(p, p.members[owner.member], owner.tile, slice_begin + next.column,
                     ring + next_slot * p.shared.ring_slot);
    }
    if (next.step < end_step) next.advance(p, column_warp, columns);
    next_slot = next_slot + 1 == slots ? 0 : next_slot + 1;
    cp_async_commit();
  };
  for (int i = 0; i < slots - 1; ++i) issue();
  if (stage) {
    if (!p.waits_late) grid_dependency_wait();
    stage_input<Shape::kTokens, Shape::kWarps>(p, shared);
    __syncthreads();
  }

  const InputReader<kTiles, kSpread> reader(p, shared);
  const auto* inverse_rms = reinterpret_cast<const float*>(shared + p.shared.inverse_rms);
  int slot = 0;
  for (int step = first_step; step < end_step; step += static_cast<int>(gridDim.x)) {
    const int first_tile = (step - run.first_step) * p.row_warps, tile = first_tile + row_warp;
    float sums[kTiles][4] = {};
    for (int column = column_warp; column < columns; column += p.column_warps) {
      wait_for_tile(slots);
      __syncwarp();  // the tile of all lanes is there; and the slot that is filled next was read by all
      issue();
      if (tile < run.tiles) {
        const TileOwner owner = tile_owner(p, run, tile);
        const TileInput input = {2 * Weights::kColumns * column,
                                 reinterpret_cast<const float*>(shared + p.shared.sums) +
                                     Weights::kColumns / 16 * column * Shape::kTokens};
        Weights::template multiply<kTiles, kSpread>(p.members[owner.member], ring + slot * p.shared.ring_slot,
                                                    shared + p.shared.code, reader, input, sums);
      }
      slot = slot + 1 == slots ? 0 : slot + 1;
    }
    if (p.waits_late) grid_dependency_wait();
    if constexpr (kTiles > 1) {
      if (tile < run.tiles) store_part<kTiles>(p, run, tile, column_warp, sums);
    } else {
      if constexpr (kSpread > 1) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if constexpr (kSpread == 4) sums[0][i] += __shfl_xor_sync(kAllLanes, sums[0][i], 1);
          sums[0][i] += __shfl_xor_sync(kAllLanes, sums[0][i], 2);
        }
      }
      float* partials = reinterpret_cast<float*>(shared + p.shared.partials) +
                        step_count % 2 * Shape::kWarps * Shape::kPartialFloats;
      float* own = partials + warp * Shape::kPartialFloats;
      const int group = lane / 4, pair = lane % 4;
      if (2 * pair < Shape::kColumnTokens) {
#pragma unroll
        for (int i = 0; i < 4; ++i) own[20 * (2 * pair + i % 2) + group + 8 * (i / 2)] = sums[0][i];
      }
      // One barrier is enough: the sums of the step after next, in the same place, are written after the next
      // step's barrier, which every thread passes after it has read these.
      __syncthreads();
      finish_step<kTiles, kSpread>(p, run, first_tile, min(columns, p.column_warps), partials, inverse_rms);
      ++step_count;
    }
  }
  cp_async_wait<0>();
  __syncwarp();
}

// Expected on an H100, Qwen3-8B in Q4_K_M, one token: q, k and v 14.2 MB in 6 us, o 9.4 MB in 4, gate and up
// 56.6 MB in 20, down 28.3 or 41.3 MB in 11 or 15, lm_head 510 MB in 175 us.
template <int kTiles, int kSpread>
__global__ void __launch_bounds__(FewTokenShape<kTiles, kSpread>::kThreads,
                                  FewTokenShape<kTiles, kSpread>::kBlocks)
    few_token_kernel(const __grid_constant__ FewTokenParams p) {
  auto* shared = dynamic_shared<unsigned char>();
  grid_dependency_launch();
  if (p.nf4_tables != nullptr) Nf4Weights::fill_table(p.nf4_tables, shared + p.shared.code);
  bool stage = true;
  int step_count = 0;
  for (int index = 0; index < p.run_count; ++index) {
    const FewTokenRun& run = p.runs[index];
    // The block's steps are blockIdx.x, + gridDim.x, ... of all runs.
    const int grid = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    const int before = run.first_step > block ? (run.first_step - block + grid - 1) / grid : 0;
    const int first_step = block + before * grid;
    const int end_step = run.first_step + (run.tiles + p.row_warps - 1) / p.row_warps;
    if (first_step >= end_step) continue;
    const auto take = [&](auto weights) {
      take_run<decltype(weights), kTiles, kSpread>(p, run, first_step, stage, step_count, shared);
    };
    switch (run.dtype) {
      case DType::kQ4_K:
        take(PlacedWeights<FormatQ4K>{});
        break;
      case DType::kQ5_K:
        take(PlacedWeights<FormatQ5K>{});
        break;
      case DType::kQ6_K:
        take(PlacedWeights<FormatQ6K>{});
        break;
      case DType::kQ8_0:
        take(PlacedWeights<FormatQ8_0>{});
        break;
      case DType::kQ4_0:
        take(PlacedWeights<FormatQ4_0>{});
        break;
      case DType::kQ3_K:
        take(PlacedWeights<FormatQ3K>{});
        break;
      case DType::kQ2_K:
        take(PlacedWeights<FormatQ2K>{});
        break;
      case DType::kNF4:
        take(Nf4Weights{});
        break;
      case DType::kBF16:
        take(PlainWeights<DType::kBF16>{});
        break;
      case DType::kF16:
        take(PlainWeights<DType::kF16>{});
        break;
      default:
        break;
    }
    stage = false;
  }
}

}  // namespace onggi::cuda

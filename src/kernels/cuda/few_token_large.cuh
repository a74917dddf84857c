// The kernel of few_token_large.h.
//
// A warp has two tiles of rows (gate and up of the same rows, or neighbours) and a slice of K, and keeps the
// sums of all tokens in registers. Stage after stage, of 256 columns each, its tiles come through a ring of
// its own; the activations of a stage come through a ring that the block's warps share. Products of both
// tiles with the same activations follow each other, so that these are read from shared memory once.
#pragma once

#include <type_traits>

#include "kernels/cuda/few_token_large.h"
#include "kernels/cuda/few_token_weights.cuh"

namespace onggi::cuda {

inline constexpr int kLargeWarps = 8;      // at most
inline constexpr int kLargePairTiles = 2;  // of rows, of a warp
inline constexpr int kOperandRowPad = 64;  // bytes, so that the lanes of a load meet all banks

// Bytes of a token's activations of a stage.
constexpr int operand_row_bytes(int halves) { return 256 * halves + kOperandRowPad; }

// The block's activations of stage `stage` of the slice: [T] rows of operand_row_bytes.
template <typename Weights, int kTokens>
__device__ __forceinline__ void issue_operands(const FewTokenParams& p, const void* operands, int first_half,
                                               unsigned char* to) {
  constexpr int kPieces = 16 * Weights::kHalves;  // of 16 bytes, of a token
  const int64_t row_bytes = int64_t{2} * kTileColumns * p.column_tiles;
  const auto* from = static_cast<const unsigned char*>(operands) + 256 * first_half;
  for (int i = threadIdx.x; i < kTokens * kPieces; i += static_cast<int>(blockDim.x)) {
    const int token = i / kPieces, piece = i % kPieces;
    // Rows of tokens that are not there repeat one that is: nobody reads their sums.
    cp_async_16(to + token * operand_row_bytes(Weights::kHalves) + 16 * piece,
                from + min(token, p.tokens - 1) * row_bytes + 16 * piece);
  }
}

// Adds the products of the warp's tiles in slots with the activations at x.
template <typename Weights, int kTokenTiles>
__device__ __forceinline__ void multiply_large_tiles(const WeightTables (&tables)[kLargePairTiles],
                                                     const unsigned char* slots, const unsigned char* x,
                                                     float (&sums)[kLargePairTiles][kTokenTiles][4]) {
#pragma unroll 1
  for (int h = 0; h < Weights::kHalves; ++h) {
    const typename Weights::Half halves[kLargePairTiles] = {
        typename Weights::Half(tables[0], slots, h),
        typename Weights::Half(tables[1], slots + Weights::kSlotBytes, h)};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t a[kLargePairTiles][2][4];
#pragma unroll
      for (int i = 0; i < kLargePairTiles; ++i) Weights::operands(halves[i], tables[i], j, a[i]);
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        const uint4 b = *reinterpret_cast<const uint4*>(x + 256 * h + 64 * j +
                                                        8 * n * operand_row_bytes(Weights::kHalves));
#pragma unroll
        for (int i = 0; i < kLargePairTiles; ++i) {
          multiply_16<Weights::kOperands>(sums[i][n], a[i][0], b.x, b.y);
          multiply_16<Weights::kOperands>(sums[i][n], a[i][1], b.z, b.w);
        }
      }
    }
  }
}

// What a warp's two tiles have come to: [tile][token tile][4] of every lane.
template <int kTokenTiles>
struct PairSums {
  float of[kLargePairTiles][kTokenTiles][4];
};

// Finishes or leaves the outputs of a warp's tiles, of which there are `count`. Not in line: it is once for
// all dtypes, and its loops need no registers of their own for each sum.
template <int kTokenTiles>
__device__ __noinline__ void finish_pair(const FewTokenParams& p, const TileOwner (&owners)[kLargePairTiles],
                                         int count, const PairSums<kTokenTiles>& sums) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
  const bool gated = p.partials == nullptr && p.activate == Activate::kGate;
#pragma unroll 1
  for (int index = 0; index < 4 * kTokenTiles; ++index) {
    const int n = index / 4, i = index % 4;
    const int token = 8 * n + 2 * pair + i % 2, in_tile = group + 8 * (i / 2);
    if (token >= p.tokens) continue;
    if (gated) {
      const int row = kTileRows * owners[0].tile + in_tile;
      const float factor = p.factors[token];
      if (count > 0 && row < p.members[0].rows)
        store_gated(p, row, token, factor * sums.of[0][n][i], factor * sums.of[1][n][i]);
      continue;
    }
#pragma unroll 1
    for (int t = 0; t < count; ++t) {
      const FewTokenMember& member = p.members[owners[t].member];
      const int row = kTileRows * owners[t].tile + in_tile;
      if (p.partials != nullptr) {
        store_partial(p, member, row, token, sums.of[t][n][i]);
      } else if (row < member.rows) {
        store_output(p, member, row, token, p.factors[token] * sums.of[t][n][i]);
      }
    }
  }
}

template <typename Weights, int kTokenTiles>
__device__ __noinline__ void take_large_pair(const FewTokenParams& p, const FewTokenLargePlan& plan,
                                             int index, unsigned char* shared) {
  const FewTokenRun& run = p.runs[index];
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int step = static_cast<int>(blockIdx.x) - plan.first_step[index];
  const int first = kLargePairTiles * (step * warps + warp_index());
  const int count = max(0, min(kLargePairTiles, run.tiles - first));
  // A tile that is not there repeats one that is.
  const TileOwner owners[kLargePairTiles] = {tile_owner(p, run, min(first, run.tiles - 1)),
                                             tile_owner(p, run, min(first + 1, run.tiles - 1))};
  const int slice_first = static_cast<int>(blockIdx.y) * plan.slice_tiles;
  constexpr int kParts = 2 / Weights::kHalves;
  const int stages = kParts * min(plan.slice_tiles, p.column_tiles - slice_first);
  unsigned char* ring = shared + plan.ring + warp_index() * plan.stages * plan.ring_slot;

  const auto issue_weights = [&](int stage, int slot) {
    if (stage >= stages) return;
#pragma unroll
    for (int i = 0; i < kLargePairTiles; ++i)
      Weights::issue(p, p.members[owners[i].member], owners[i].tile, kParts * slice_first + stage,
                     ring + slot * plan.ring_slot + i * Weights::kSlotBytes);
  };
  const void* operands = Weights::kOperands == Operands::kF16 ? plan.f16 : plan.bf16;
  const auto issue_stage = [&](int stage, int slot) {
    if (stage < stages)
      issue_operands<Weights, 8 * kTokenTiles>(p, operands, 2 * slice_first + Weights::kHalves * stage,
                                               shared + slot * plan.stage_bytes);
    cp_async_commit();
  };
  for (int stage = 0; stage + 1 < plan.stages; ++stage) issue_weights(stage, stage);
  if constexpr (std::is_same_v<Weights, Nf4Weights>)
    Nf4Weights::fill_table(p.nf4_tables, shared + plan.table);
  grid_dependency_wait();
  for (int stage = 0; stage + 1 < plan.stages; ++stage) issue_stage(stage, stage);

  const WeightTables tables[kLargePairTiles] = {{&p.members[owners[0].member], shared + plan.table},
                                                {&p.members[owners[1].member], shared + plan.table}};
  const int lane_offset = lane_index() / 4 * operand_row_bytes(Weights::kHalves) + 16 * (lane_index() % 4);
  float sums[kLargePairTiles][kTokenTiles][4] = {};
  int slot = 0, filled = plan.stages - 1;  // slots of this stage and of the one that is queued
#pragma unroll 1
  for (int stage = 0; stage < stages; ++stage) {
    if (plan.stages == 3) {
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();  // all copies of the stage are there, and what is filled next was read
    issue_weights(stage + plan.stages - 1, filled);
    issue_stage(stage + plan.stages - 1, filled);
    multiply_large_tiles<Weights, kTokenTiles>(tables, ring + slot * plan.ring_slot,
                                               shared + slot * plan.stage_bytes + lane_offset, sums);
    filled = slot;
    slot = slot + 1 == plan.stages ? 0 : slot + 1;
  }
  cp_async_wait<0>();
  PairSums<kTokenTiles> left;
#pragma unroll
  for (int t = 0; t < kLargePairTiles; ++t)
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) left.of[t][n][i] = sums[t][n][i];
  finish_pair<kTokenTiles>(p, owners, count, left);
}

// Expected on an H100, Qwen3-8B in Q4_K_M, 64 tokens: about 920 operations of a warp for two tiles of Q4_K
// and 64 loads of 512 bytes from shared memory, which are 256 cycles of a multiprocessor: 1.0 ms of a step
// for these, as much for the operations, 1.6 for the memory, in part at the same time.
template <int kTokenTiles>
__global__ void __launch_bounds__(kLargeWarps* kWarp, 1)
    few_token_large_kernel(const __grid_constant__ FewTokenParams p,
                           const __grid_constant__ FewTokenLargePlan plan) {
  auto* shared = dynamic_shared<unsigned char>();
  grid_dependency_launch();
  int index = 0;
  while (index + 1 < p.run_count && static_cast<int>(blockIdx.x) >= plan.first_step[index + 1]) ++index;
  with_weights(p.runs[index].dtype, [&]<typename Weights>(Weights) {
    take_large_pair<Weights, kTokenTiles>(p, plan, index, shared);
  });
}

}  // namespace onggi::cuda

// The kernel of few_token_large.h.
//
// Two warps have two tiles of rows (gate and up of the same rows, or neighbours) and a slice of K, and keep
// the sums of all tokens in registers. Stage after stage, of 256 columns each, the tiles come through a ring
// of the two, of which each takes one half of the columns; the activations come through a ring that all warps
// of the block share. Products of both tiles with the same activations follow each other, so that these are
// read from shared memory once.
#pragma once

#include <type_traits>

#include "kernels/cuda/few_token_adapters.cuh"
#include "kernels/cuda/few_token_large.h"
#include "kernels/cuda/few_token_weights.cuh"

namespace onggi::cuda {

inline constexpr int kLargePairs = 6;  // of tiles, of a block, at most
inline constexpr int kLargeWarps = 2 * kLargePairs;
inline constexpr int kLargePairTiles = 2;
// Bytes of a token's activations of a stage, with room so that the lanes of a load meet all banks.
inline constexpr int kOperandRowBytes = 2 * kTileColumns + 64;

// Queues the copies of the activations of 256 columns: [T] rows of kOperandRowBytes.
template <int kTokens>
__device__ __forceinline__ void issue_operands(const FewTokenParams& p, const void* operands, int column_tile,
                                               unsigned char* to) {
  const int64_t row_bytes = int64_t{2} * kTileColumns * p.column_tiles;
  const int warps = static_cast<int>(blockDim.x) / kWarp, lane_bytes = 16 * lane_index();
  const auto* from =
      static_cast<const unsigned char*>(operands) + 2 * kTileColumns * column_tile + lane_bytes;
  to += lane_bytes;
  // Rows of tokens that are not there repeat one that is: nobody reads their sums.
  for (int token = warp_index(); token < kTokens; token += warps)
    cp_async_16(to + token * kOperandRowBytes, from + min(token, p.tokens - 1) * row_bytes);
}

// The pair's tiles of a stage in the ring: [tile][part] slots.
template <typename Weights>
struct PairSlot {
  static constexpr int kParts = 2 / Weights::kHalves;  // tiles of 256 columns
  static constexpr int kTileBytes = kParts * Weights::kSlotBytes, kBytes = kLargePairTiles * kTileBytes;
  // Where half h of the columns of tile i is.
  static __device__ __forceinline__ const unsigned char* half(const unsigned char* slot, int i, int h) {
    return slot + i * kTileBytes + (kParts == 2 ? h * Weights::kSlotBytes : 0);
  }
};

// Adds the products of half h of the pair's tiles with the activations at x.
template <typename Weights, int kTokenTiles>
__device__ __forceinline__ void multiply_half(const WeightTables (&tables)[kLargePairTiles],
                                              const unsigned char* slot, int h, const unsigned char* x,
                                              float (&sums)[kLargePairTiles][kTokenTiles][4]) {
  const typename Weights::Half halves[kLargePairTiles] = {
      typename Weights::Half(tables[0], PairSlot<Weights>::half(slot, 0, h), h),
      typename Weights::Half(tables[1], PairSlot<Weights>::half(slot, 1, h), h)};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t a[kLargePairTiles][2][4];
#pragma unroll
    for (int i = 0; i < kLargePairTiles; ++i) Weights::operands(halves[i], tables[i], j, a[i]);
    uint4 b[kTokenTiles];
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
      b[n] = *reinterpret_cast<const uint4*>(x + 256 * h + 64 * j + 8 * n * kOperandRowBytes);
      // Products that add to the same sums lie far apart.
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
      for (int i = 0; i < kLargePairTiles; ++i)
        multiply_16<Weights::kOperands>(sums[i][n], a[i][0], b[n].x, b[n].y);
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
#pragma unroll
      for (int i = 0; i < kLargePairTiles; ++i)
        multiply_16<Weights::kOperands>(sums[i][n], a[i][1], b[n].z, b[n].w);
  }
}

// Finishes or leaves the outputs of half h of the tokens: sums[tile][token tile of the half][4]. In a loop,
// so that its code is not there once for each sum.
template <int kHalfTiles>
struct HalfSums {
  float of[kLargePairTiles][kHalfTiles][4];
};
template <int kHalfTiles>
__device__ __forceinline__ void finish_half(const FewTokenParams& p,
                                            const TileOwner (&owners)[kLargePairTiles], int count, int h,
                                            const HalfSums<kHalfTiles>& sums) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
  const bool has_parts = p.partials != nullptr;
#pragma unroll 1
  for (int n = 0; n < kHalfTiles; ++n) {
    const int first_token = 8 * (kHalfTiles * h + n) + 2 * pair;
    float factors[2] = {1, 1};
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (!has_parts && first_token + i < p.tokens) factors[i] = p.factors[first_token + i];
    if (!has_parts && p.activate == Activate::kGate) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = kTileRows * owners[0].tile + group + 8 * (i / 2);
        if (count > 0 && first_token + i % 2 < p.tokens && row < p.members[0].rows)
          store_gated(p, row, first_token + i % 2, factors[i % 2] * sums.of[0][n][i],
                      factors[i % 2] * sums.of[1][n][i]);
      }
      continue;
    }
#pragma unroll 1
    for (int t = 0; t < count; ++t) {
      const FewTokenMember& member = p.members[owners[t].member];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = kTileRows * owners[t].tile + group + 8 * (i / 2), token = first_token + i % 2;
        if (token >= p.tokens) continue;
        if (has_parts) {
          store_partial(p, member, row, token, sums.of[t][n][i]);
        } else if (row < member.rows) {
          store_output(p, member, row, token, factors[i % 2] * sums.of[t][n][i]);
        }
      }
    }
  }
}

// Adds up the sums of the pair's two warps: each gets those of its half of the tokens. `room` is the pair's
// shared memory.
template <int kTokenTiles>
__device__ __forceinline__ HalfSums<kTokenTiles / 2> join_halves(
    const float (&sums)[kLargePairTiles][kTokenTiles][4], int h, float* room) {
  constexpr int kHalfTiles = kTokenTiles / 2, kFloats = kLargePairTiles * kHalfTiles * 4;
  float* given = room + h * kFloats * kWarp + lane_index();
  const float* taken = room + (1 - h) * kFloats * kWarp + lane_index();
#pragma unroll
  for (int i = 0; i < kFloats; ++i) {
    const int t = i / (4 * kHalfTiles), n = i / 4 % kHalfTiles;
    given[kWarp * i] = h == 0 ? sums[t][kHalfTiles + n][i % 4] : sums[t][n][i % 4];
  }
  __syncthreads();
  HalfSums<kHalfTiles> joined;
#pragma unroll
  for (int i = 0; i < kFloats; ++i) {
    const int t = i / (4 * kHalfTiles), n = i / 4 % kHalfTiles;
    joined.of[t][n][i % 4] = taken[kWarp * i] + (h == 0 ? sums[t][n][i % 4] : sums[t][kHalfTiles + n][i % 4]);
  }
  return joined;
}

template <typename Weights, int kTokenTiles>
__device__ __forceinline__ void take_large_pair(const FewTokenParams& p, const FewTokenLargePlan& plan,
                                                int index, unsigned char* shared) {
  constexpr int kParts = PairSlot<Weights>::kParts;
  const FewTokenRun& run = p.runs[index];
  const int pairs = static_cast<int>(blockDim.x) / (2 * kWarp), pair = warp_index() / 2, h = warp_index() % 2;
  const int step = static_cast<int>(blockIdx.x) - plan.first_step[index];
  const int first = kLargePairTiles * (step * pairs + pair);
  const int count = max(0, min(kLargePairTiles, run.tiles - first));
  // A tile that is not there repeats one that is.
  const TileOwner owners[kLargePairTiles] = {tile_owner(p, run, min(first, run.tiles - 1)),
                                             tile_owner(p, run, min(first + 1, run.tiles - 1))};
  const int slice_first = static_cast<int>(blockIdx.y) * plan.slice_tiles;
  const int stages = min(plan.slice_tiles, p.column_tiles - slice_first);
  unsigned char* ring = shared + plan.ring + pair * plan.stages * plan.ring_slot;

  // Each warp of the pair copies one of the tiles.
  typename Weights::Source source;
  {
    const TileOwner own = owners[h];
    source.seek(p, p.members[own.member], own.tile, kParts * slice_first);
  }
  const auto issue_weights = [&](int stage, int slot) {
    if (stage >= stages) return;
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      source.issue(ring + slot * plan.ring_slot + h * PairSlot<Weights>::kTileBytes +
                   part * Weights::kSlotBytes);
  };
  const void* operands = Weights::kOperands == Operands::kF16 ? p.f16 : p.bf16;
  const auto issue_stage = [&](int stage, int slot) {
    if (stage < stages)
      issue_operands<8 * kTokenTiles>(p, operands, slice_first + stage, shared + slot * plan.stage_bytes);
    cp_async_commit();
  };
  if constexpr (std::is_same_v<Weights, Nf4Weights>) Nf4Weights::make_table(p.nf4_bytes, shared + plan.table);
  for (int stage = 0; stage + 1 < plan.stages; ++stage) issue_weights(stage, stage);
  if (p.members[owners[h].member].rank > 0)
    prefetch_adapter_rows(p.members[owners[h].member], owners[h].tile);
  grid_dependency_wait();
  for (int stage = 0; stage + 1 < plan.stages; ++stage) issue_stage(stage, stage);

  const WeightTables tables[kLargePairTiles] = {
      {p.members[owners[0].member].nf4_offset, shared + plan.table},
      {p.members[owners[1].member].nf4_offset, shared + plan.table}};
  const int lane_offset = lane_index() / 4 * kOperandRowBytes + 16 * (lane_index() % 4);
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
    multiply_half<Weights, kTokenTiles>(tables, ring + slot * plan.ring_slot, h,
                                        shared + slot * plan.stage_bytes + lane_offset, sums);
    filled = slot;
    slot = slot + 1 == plan.stages ? 0 : slot + 1;
  }
  cp_async_wait<0>();
  __syncthreads();  // the rings are free
  // The first slice adds the adapters' part, each warp that of every second eight tokens.
  if (blockIdx.y == 0) {
#pragma unroll
    for (int i = 0; i < kLargePairTiles; ++i)
      add_adapter_eights(p, p.members[owners[i].member], owners[i].tile, h, 2, sums[i]);
  }
  float* room = reinterpret_cast<float*>(shared) + pair * kLargePairTiles * kTokenTiles * 4 * kWarp;
  finish_half<kTokenTiles / 2>(p, owners, count, h, join_halves<kTokenTiles>(sums, h, room));
}

// On an H100, Qwen3-8B in Q4_K_M, 64 tokens: gate and up in 53 us, 17 for the memory. About 500 operations of
// a warp for a half of two tiles, 128 of them products, and 32 loads of 512 bytes from shared memory.
template <typename First, typename Second, int kTokenTiles>
__global__ void __launch_bounds__(kLargeWarps* kWarp, 1)
    few_token_large_kernel(const __grid_constant__ FewTokenParams p,
                           const __grid_constant__ FewTokenLargePlan plan) {
  auto* shared = dynamic_shared<unsigned char>();
  grid_dependency_launch();
  const int index = run_of_block(p, plan.first_step);
  if (std::is_same_v<First, Second> || p.runs[index].dtype == First::kDType) {
    take_large_pair<First, kTokenTiles>(p, plan, index, shared);
  } else {
    take_large_pair<Second, kTokenTiles>(p, plan, index, shared);
  }
}

template <int kTokenTiles>
void launch_large(CudaStream& stream, const char* op, const FewTokenParams& p, const FewTokenLargePlan& plan,
                  const LaunchShape& shape) {
  const bool known = with_weights(p, [&]<typename First, typename Second>(First, Second) {
    launch(stream, op, shape, few_token_large_kernel<First, Second, kTokenTiles>, p, plan);
  });
  ONGGI_CHECK(known);
}

}  // namespace onggi::cuda

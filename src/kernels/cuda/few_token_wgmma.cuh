// The kernel of few_token_wgmma.h.
//
// A block has 64 rows for each of its warpgroups and a slice of K; a warp has a tile of 16 rows. Tile after
// tile, of 256 columns each, a warp's weights come through a ring of its own, become operands in its
// registers, and are multiplied with the activations of all tokens by wgmma, while the operands of the next
// product are made. The activations, which launch_few_token_inputs has laid out as wgmma reads them, come
// through a ring that all warps share; a warp of its own has them copied there, half a tile of columns at a
// time.
//
// The slices of K of the same rows are a cluster of blocks: in the end each block adds up the sums of all for
// some of the tokens and finishes their outputs.
#pragma once

#include <type_traits>

#include "kernels/cuda/few_token_adapters.cuh"
#include "kernels/cuda/few_token_weights.cuh"
#include "kernels/cuda/few_token_wgmma.h"
#include "kernels/cuda/hopper_rows.cuh"

namespace onggi::cuda {

inline constexpr int kWgmmaWarps = 4;  // of a group
// Of a block, at most: registers hold the sums of all tokens.
constexpr int most_wgmma_groups(int tokens) { return tokens <= 64 ? 4 : 3; }
inline constexpr int kWgmmaRows = kWgmmaWarps * kTileRows;
inline constexpr int kWgmmaInputSlots = 8;  // at most

// Of a block: its groups and the warp that copies.
constexpr int wgmma_threads(int groups) { return (kWgmmaWarps * groups + 1) * kWarp; }
// What a multiprocessor has registers for. Up to 64 tokens: 96 for a thread, so that a block of two groups
// leaves room for one of the next kernel.
constexpr int resident_wgmma_threads(int tokens) {
  return tokens <= 64 ? 640 : wgmma_threads(most_wgmma_groups(tokens));
}
__device__ __forceinline__ int wgmma_warps() { return static_cast<int>(blockDim.x) / kWarp - 1; }

// Floats from a token's sums, of all rows of the block, to the next's: the lanes of a warp meet all banks.
constexpr int wgmma_sum_stride(int warps) { return kTileRows * warps + 4; }

struct WgmmaBarriers {
  uint64_t full[kWgmmaInputSlots], empty[kWgmmaInputSlots];
};

// A place in the ring of activations, and the parity with which its barriers end.
struct WgmmaInput {
  int slot = 0, parity = 0;
  __device__ __forceinline__ void advance(int slots) {
    if (++slot == slots) slot = 0, parity ^= 1;
  }
};

template <Operands kOperands, int kBlocks>
__device__ __forceinline__ void wgmma_add(float (&d)[kBlocks][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (kOperands == Operands::kF16) {
    wgmma_add_by_rows_f16(d, a, b);
  } else {
    wgmma_add_by_rows_bf16(d, a, b);
  }
}

// What a block works on.
struct WgmmaShare {
  int first_tile;   // of the run, of the block's first warp
  int slice_first;  // tile of 256 columns
  int stages;       // tiles of 256 columns
};

// Brings the activations. One thread.
template <int kTokens>
__device__ __forceinline__ void copy_wgmma_input(const FewTokenWgmmaPlan& plan, const void* operands,
                                                 const WgmmaShare& share, unsigned char* shared) {
  constexpr int kBytes = operand_half_bytes(kTokens);
  auto& barriers = *reinterpret_cast<WgmmaBarriers*>(shared + plan.barriers);
  const auto* from =
      static_cast<const unsigned char*>(operands) + static_cast<int64_t>(share.slice_first) * 2 * kBytes;
  WgmmaInput input;
#pragma unroll 1
  for (int half = 0; half < 2 * share.stages; ++half, from += kBytes, input.advance(plan.input_slots)) {
    mbarrier_wait(&barriers.empty[input.slot], input.parity ^ 1);
    mbarrier_arrive_expecting(&barriers.full[input.slot], kBytes);
    copy_bytes(shared + input.slot * kBytes, from, kBytes, &barriers.full[input.slot]);
  }
}

// Until the oldest of `slots` - 1 groups of copies on their way is there.
__device__ __forceinline__ void wait_for_ring(int slots) {
  if (slots == 4) {
    cp_async_wait<2>();
  } else if (slots == 3) {
    cp_async_wait<1>();
  } else {
    cp_async_wait<0>();
  }
}

// A warp's tile of rows: its weights' way from memory to the sums.
template <typename Weights, int kTokens>
struct WgmmaTile {
  static constexpr int kParts = 2 / Weights::kHalves;  // of a stage
  static constexpr int kBlocks = kTokens / 8;

  const FewTokenWgmmaPlan& plan;
  unsigned char* const shared;
  unsigned char* const ring;
  const int stages;
  typename Weights::Source source;

  __device__ __forceinline__ WgmmaTile(const FewTokenWgmmaPlan& of, unsigned char* memory, int column_tiles)
      : plan(of),
        shared(memory),
        ring(memory + of.ring + warp_index() * of.ring_slots * of.ring_slot),
        stages(column_tiles) {}

  // Queues the copies of a stage, or none beyond the last, as one group.
  __device__ __forceinline__ void issue(int stage, int slot) {
    if (stage < stages) {
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        source.issue(ring + slot * plan.ring_slot + part * Weights::kSlotBytes);
    }
    cp_async_commit();
  }

  // Adds the product with the activations. Products of two sets of registers are under way in turns.
  __device__ __forceinline__ void multiply(const WeightTables& tables, float (&sums)[kBlocks][4]) {
    auto& barriers = *reinterpret_cast<WgmmaBarriers*>(shared + plan.barriers);
    WgmmaInput input;
    int slot = 0;
    uint32_t a[2][2][4];
#pragma unroll 1
    for (int i = 0; i < 2 * stages; ++i) {
      const int h = i % 2;
      if (h == 0) {
        wait_for_ring(plan.ring_slots);
        __syncwarp();  // the tile of all lanes is there; and the slot that is filled next was read by all
        issue(i / 2 + plan.ring_slots - 1, (slot == 0 ? plan.ring_slots : slot) - 1);
      }
      const unsigned char* tile = ring + slot * plan.ring_slot + (kParts == 2 ? h * Weights::kSlotBytes : 0);
      const typename Weights::Half half(tables, tile, h);
      const uint64_t b = wgmma_by_rows(shared + input.slot * operand_half_bytes(kTokens));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        Weights::operands(half, tables, j, a[j % 2]);
        if (j == 0) mbarrier_wait(&barriers.full[input.slot], input.parity);
        wgmma_fence();
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          // In units of 16 bytes: a block of 64 columns, and 16 columns within it.
          const int to = j / 2 * kTokens * 8 + (2 * (j % 2) + n) * 2;
          wgmma_add<Weights::kOperands>(sums, a[j % 2][n], b + static_cast<uint64_t>(to));
        }
        wgmma_commit();
        wgmma_wait<1>();
        if (j == 0 && i > 0 && lane_index() == 0)  // the half before was read
          mbarrier_arrive(&barriers.empty[(input.slot == 0 ? plan.input_slots : input.slot) - 1]);
      }
      input.advance(plan.input_slots);
      if (h == 1) slot = slot + 1 == plan.ring_slots ? 0 : slot + 1;
    }
    wgmma_wait<0>();
    wgmma_pin(sums);
    cp_async_wait<0>();
  }
};

// Values of one row for some tokens, which a thread finishes together so that its loads are under way
// together.
struct WgmmaBatch {
  static constexpr int kTokens = 4;
  int token[kTokens];
  float value[kTokens];
};

// The products of one of the block's rows: the cluster's sums. `sums` is the row's of token 0.
__device__ __forceinline__ void make_products(const FewTokenParams& p, const float* sums, int stride,
                                              WgmmaBatch& batch) {
#pragma unroll
  for (int i = 0; i < WgmmaBatch::kTokens; ++i) batch.value[i] = 0;
#pragma unroll 2
  for (int slice = 0; slice < p.slices; ++slice)
#pragma unroll
    for (int i = 0; i < WgmmaBatch::kTokens; ++i) {
      const float* from = sums + batch.token[i] * stride;
      batch.value[i] += p.slices == 1 ? *from : cluster_load(from, slice);
    }
#pragma unroll
  for (int i = 0; i < WgmmaBatch::kTokens; ++i) batch.value[i] *= p.factors[batch.token[i]];
}

// Finishes what is this block's of the outputs, from the sums of the cluster's blocks: its rows, for the
// tokens that have its turn. A thread has one row. `sums`: [token] rows of wgmma_sum_stride.
__device__ __forceinline__ void finish_wgmma_rows(const FewTokenParams& p, const FewTokenRun& run,
                                                  const WgmmaShare& share, const float* sums) {
  constexpr int kBatch = WgmmaBatch::kTokens;
  const int warps = wgmma_warps(), stride = wgmma_sum_stride(warps);
  const bool gated = p.activate == Activate::kGate;
  const int outputs = kTileRows * warps / (gated ? 2 : 1), turns = kWarp * warps / outputs;
  const int own = static_cast<int>(threadIdx.x) % outputs;
  // Gate and up alternate by tiles.
  const int at = gated ? own / kTileRows * 2 * kTileRows + own % kTileRows : own;
  const int tile = share.first_tile + at / kTileRows;
  if (tile >= run.tiles) return;
  const TileOwner owner = tile_owner(p, run, tile);
  const FewTokenMember& member = p.members[owner.member];
  const int row = kTileRows * owner.tile + at % kTileRows;
  if (row >= member.rows) return;
  const int step = turns * p.slices;
  void* out = gated ? p.gated_out : member.out;
  const int64_t out_stride = gated ? p.gated_stride : member.rows;
#pragma unroll 1
  for (int first = static_cast<int>(threadIdx.x) / outputs + turns * static_cast<int>(blockIdx.y);
       first < p.tokens; first += kBatch * step) {
    WgmmaBatch batch;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) batch.token[i] = min(first + i * step, p.tokens - 1);
    make_products(p, sums + at, stride, batch);
    if (gated) {
      WgmmaBatch up = batch;
      make_products(p, sums + at + kTileRows, stride, up);
#pragma unroll
      for (int i = 0; i < kBatch; ++i) batch.value[i] = silu(batch.value[i]) * up.value[i];
    }
    if (p.residual != nullptr) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
        batch.value[i] += load_activation(p.residual, p.out_is_bf16, batch.token[i] * out_stride + row);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (first + i * step < p.tokens)
        store_activation(out, p.out_is_bf16, batch.token[i] * out_stride + row, batch.value[i]);
  }
}

template <typename Weights, int kTokens>
__device__ __forceinline__ void take_wgmma_rows(const FewTokenParams& p, const FewTokenWgmmaPlan& plan,
                                                int index, unsigned char* shared) {
  const FewTokenRun& run = p.runs[index];
  const int warps = wgmma_warps(), step = static_cast<int>(blockIdx.x) - plan.first_step[index];
  const bool multiplies = warp_index() < warps;
  WgmmaShare share{warps * step, static_cast<int>(blockIdx.y) * plan.slice_tiles, 0};
  share.stages = min(plan.slice_tiles, p.column_tiles - share.slice_first);
  if (threadIdx.x == 0) {
    auto& barriers = *reinterpret_cast<WgmmaBarriers*>(shared + plan.barriers);
    for (int i = 0; i < plan.input_slots; ++i) {
      mbarrier_init(&barriers.full[i], 1);
      mbarrier_init(&barriers.empty[i], warps);
    }
    mbarrier_init_fence();
  }
  WgmmaTile<Weights, kTokens> tile(plan, shared, share.stages);
  // A tile that is not there repeats one that is.
  const TileOwner owner = tile_owner(p, run, min(share.first_tile + warp_index(), run.tiles - 1));
  const FewTokenMember& member = p.members[owner.member];
  if (multiplies) {
    tile.source.seek(p, member, owner.tile, WgmmaTile<Weights, kTokens>::kParts * share.slice_first);
#pragma unroll 1
    for (int i = 0; i + 1 < plan.ring_slots; ++i) tile.issue(i, i);
    if (member.rank > 0) prefetch_adapter_rows(member, owner.tile);
  }
  if constexpr (std::is_same_v<Weights, Nf4Weights>) Nf4Weights::make_table(p.nf4_bytes, shared + plan.table);
  __syncthreads();

  float sums[kTokens / 8][4] = {};
  if (multiplies) {
    tile.multiply(WeightTables(member.nf4_offset, shared + plan.table), sums);
    if (member.rank > 0) {
      grid_dependency_wait();
      add_adapter_eights(p, member, owner.tile, static_cast<int>(blockIdx.y), p.slices, sums);
    }
  } else if (lane_index() == 0) {
    grid_dependency_wait();
    copy_wgmma_input<kTokens>(plan, Weights::kOperands == Operands::kF16 ? p.f16 : p.bf16, share, shared);
  }
  __syncthreads();  // the rings are free
  auto* left = reinterpret_cast<float*>(shared);
  if (multiplies) {
    const int stride = wgmma_sum_stride(warps);
    float* to = left + 2 * (lane_index() % 4) * stride + kTileRows * warp_index() + lane_index() / 4;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) to[(8 * n + i % 2) * stride + 8 * (i / 2)] = sums[n][i];
  }
  grid_dependency_wait();
  if (p.slices == 1) {
    __syncthreads();
    if (multiplies) finish_wgmma_rows(p, run, share, left);
    return;
  }
  cluster_arrive();
  cluster_wait();
  if (multiplies) finish_wgmma_rows(p, run, share, left);
  __syncwarp();
  cluster_arrive();
  cluster_wait();  // nobody reads these sums any more
}

// On an H100, Qwen3-8B in Q4_K_M, 64 tokens: gate and up, 56.6 MB and as much again of activations through
// L2, in 36 us with the launch that makes the operands, 17 for the memory. About 350 operations of a warp for
// a tile, beside 16 products of 32 cycles of its tensor core.
template <typename First, typename Second, int kTokens>
__global__ void __launch_bounds__(resident_wgmma_threads(kTokens), 1)
    few_token_wgmma_kernel(const __grid_constant__ FewTokenParams p,
                           const __grid_constant__ FewTokenWgmmaPlan plan) {
  auto* shared = dynamic_shared<unsigned char>();
  grid_dependency_launch();
  const int index = run_of_block(p, plan.first_step);
  if (std::is_same_v<First, Second> || p.runs[index].dtype == First::kDType) {
    take_wgmma_rows<First, kTokens>(p, plan, index, shared);
  } else {
    take_wgmma_rows<Second, kTokens>(p, plan, index, shared);
  }
}

template <int kTokens>
void launch_wgmma(CudaStream& stream, const char* op, const FewTokenParams& p, const FewTokenWgmmaPlan& plan,
                  const LaunchShape& shape) {
  const bool known = with_weights(p, [&]<typename First, typename Second>(First, Second) {
    launch(stream, op, shape, few_token_wgmma_kernel<First, Second, kTokens>, p, plan);
  });
  ONGGI_CHECK(known);
}

}  // namespace onggi::cuda

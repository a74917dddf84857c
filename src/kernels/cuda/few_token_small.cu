// The plan of few_token_small.cuh.
#include <algorithm>

#include "kernels/cuda/arrivals.h"
#include "kernels/cuda/few_token_small.cuh"

namespace onggi::cuda {
namespace {

static_assert(kMostOwnOperands <= kScaledMostTokens);

// Blocks for each run so that the bytes of the block with the most are fewest; how many blocks in all.
int share_blocks(const FewTokenParams& p, int64_t most_bytes, int (&blocks)[kMaxLinearGroup]) {
  const int together = p.activate == Activate::kGate ? 2 : 1;
  int all = 0;
  for (int i = 0; i < p.run_count; ++i) {
    const int unit_bytes = together * slot_bytes_of(p.runs[i].dtype) * 2 / halves_of(p.runs[i].dtype);
    const auto units_of_block = static_cast<int>(std::max<int64_t>(1, most_bytes / unit_bytes));
    blocks[i] = ceil_div(p.runs[i].tiles / together, units_of_block);
    all += blocks[i];
  }
  return all;
}

int cut_rows(const FewTokenParams& p, int most_blocks, FewTokenSmallPlan& plan) {
  // The bytes of a block's column of tiles: the least that is enough lies between 0 and all.
  int64_t low = 0, high = 0;
  for (int i = 0; i < p.run_count; ++i)
    high += int64_t{p.runs[i].tiles} * slot_bytes_of(p.runs[i].dtype) * 2 / halves_of(p.runs[i].dtype);
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (share_blocks(p, middle, plan.blocks) <= most_blocks ? high : low) = middle;
  }
  int all = share_blocks(p, high, plan.blocks);
  // Every multiprocessor gets its block, so that those of the next kernel are spread evenly too: they start
  // beside these, and two on one multiprocessor would take twice as long.
  const int together = p.activate == Activate::kGate ? 2 : 1;
  for (int i = 0; i < p.run_count && all < most_blocks; ++i) {
    const int more = std::min(most_blocks - all, p.runs[i].tiles / together - plan.blocks[i]);
    plan.blocks[i] += more;
    all += more;
  }
  int first = 0;
  for (int i = 0; i < p.run_count; ++i) {
    plan.first_block[i] = first;
    first += plan.blocks[i];
  }
  return all;
}

using OwnShape = SmallShape<SmallInput::kOwn>;
using OperandShape = SmallShape<SmallInput::kOperands>;
int warps_of(const FewTokenSmallPlan& plan) {
  return plan.has_operands ? OperandShape::kWarps : OwnShape::kWarps;
}
int partial_slots_of(const FewTokenSmallPlan& plan) {
  return plan.has_operands ? OperandShape::kPartialSlots : OwnShape::kPartialSlots;
}

// Of ScaledTile: tiles of a step, BlockFactors of a tile.
struct ScaledShape {
  int step, blocks;
};
ScaledShape scaled_shape(DType dtype) {
  ScaledShape shape{1, 0};
  const auto take = [&]<typename Weights>(Weights) {
    shape = {ScaledTile<Weights>::kStep, ScaledTile<Weights>::kTileBlocks};
  };
  if (dtype == DType::kNF4) take(Nf4Weights{});
  with_placed_format(dtype, [&](auto format) { take(PlacedWeights<decltype(format)>{}); });
  return shape;
}

// FewTokenSmallPlan::rank_slots.
int rank_slots(const FewTokenParams& p) {
  int rank = 0;
  for (int i = 0; i < p.member_count; ++i) rank = std::max(rank, p.members[i].rank);
  return rounded_up(rank, 4);
}
// Whether blocks can make u of what they bring of x.
bool can_make_u(const FewTokenParams& p, int blocks) {
  for (int i = 0; i < p.member_count; ++i)
    if (p.members[i].rank > 0 && reinterpret_cast<uintptr_t>(p.members[i].lora_a) % 16 != 0) return false;
  const int ranks = p.member_count * rank_slots(p);
  return ceil_div(ranks, blocks) <= kMostOwnRanks && ranks * p.tokens <= kMostU;
}

// Bytes of a row of B that a block brings into shared memory; 0: there are none, or they are too long.
int lora_row_bytes(const FewTokenParams& p, const FewTokenSmallPlan& plan) {
  if (p.runs[0].dtype != DType::kNF4) return 0;
  for (int i = 0; i < p.member_count; ++i)
    if (p.members[i].rank % 4 != 0) return 0;
  constexpr int kMostRank = 32;
  return plan.rank_slots <= kMostRank ? 4 * plan.rank_slots : 0;
}
// Outputs of a block's first phase that threads finish first, and rows of B that each needs.
int lora_rows(const FewTokenParams& p, const FewTokenSmallPlan& plan) {
  const int together = p.activate == Activate::kGate ? 2 : 1;
  int most = 0;
  for (int i = 0; i < p.run_count; ++i)
    most = std::max(most, ceil_div(p.runs[i].tiles / together, plan.blocks[i]));
  most = std::min(most, OwnShape::kPhaseRows / together);
  return together * std::min(kTileRows * most * p.tokens, OwnShape::kThreads);
}

// Bytes for what warps find of x: OwnInput's sums of squares, largest magnitudes, and dot products with as
// many rows of A as a block has.
int reduction_bytes(const FewTokenParams& p, const FewTokenSmallPlan& plan) {
  int blocks = 0;
  for (int i = 0; i < p.run_count; ++i) blocks += plan.blocks[i];
  return OwnShape::kWarps * 4 * (2 + ceil_div(p.member_count * plan.rank_slots, blocks));
}

int lay_out_shared(const FewTokenParams& p, FewTokenSmallPlan& plan, int slots) {
  plan.row_bytes = 2 * kTileColumns * plan.slice_tiles + 64;
  int at = 0;
  const auto take = [&at](int bytes) {
    const int begin = at;
    at += rounded_up(bytes, 128);
    return begin;
  };
  bool has_nf4 = false;
  plan.ring_slot = 0;
  for (int i = 0; i < p.run_count; ++i) {
    has_nf4 = has_nf4 || p.runs[i].dtype == DType::kNF4;
    plan.ring_slot = std::max(plan.ring_slot, (plan.has_operands ? 1 : scaled_shape(p.runs[i].dtype).step) *
                                                  slot_bytes_of(p.runs[i].dtype));
  }
  take(has_nf4 ? Nf4Weights::kTableBytes : 0);
  plan.activations = take(p.tokens * plan.row_bytes);
  plan.reductions = take(plan.has_operands ? 0 : reduction_bytes(p, plan));
  plan.factors = take(p.tokens * 4);
  plan.partials = take(partial_slots_of(plan) * kTileRows * p.tokens * 4);
  // NF4's blocks have a float of each token side by side.
  int tile_blocks = 0;
  for (int i = 0; i < p.run_count; ++i)
    tile_blocks = std::max(tile_blocks, scaled_shape(p.runs[i].dtype).blocks);
  const int block_floats = 2 * tile_blocks * plan.slice_tiles;
  plan.block_factors_stride = has_nf4 ? 1 : block_floats;
  plan.block_factors = take(plan.has_operands ? 0 : (has_nf4 ? 1 : p.tokens) * block_floats * 4);
  plan.zeros = take(plan.has_operands ? 0 : kScaledZeroBytes);
  plan.lora_row = lora_row_bytes(p, plan);
  plan.lora_b = take(plan.lora_row * lora_rows(p, plan));
  plan.lora_u = take(4 * plan.rank_slots * p.member_count * p.tokens);
  plan.lora_entries = take(8 * plan.rank_slots * p.member_count * p.tokens);
  plan.ring_slots = slots;
  plan.ring = take(warps_of(plan) * slots * plan.ring_slot);
  return at;
}

// The longest rings that fit: beside another block of their size, else alone. The bytes in all.
int fit_shared(const FewTokenMachine& machine, const FewTokenParams& p, FewTokenSmallPlan& plan) {
  // Slots of sums that are scaled are free as soon as they are read.
  const int fewest = !plan.has_operands && is_quantized(p.runs[0].dtype) ? 1 : 2;
  if (machine.ring_tiles > 0) {
    const int bytes = lay_out_shared(p, plan, std::max(machine.ring_tiles, fewest));
    if (bytes <= static_cast<int>(machine.shared_bytes)) return bytes;
  }
  for (const int room : {half_of_shared(machine), static_cast<int>(machine.shared_bytes)})
    for (int slots = kSmallRingMost; slots >= fewest; --slots) {
      const int bytes = lay_out_shared(p, plan, slots);
      if (bytes <= room) return bytes;
    }
  return lay_out_shared(p, plan, fewest);
}

// Whether blocks can make their operands of x: in whole vectors, for steps of two tiles.
bool can_bring_own(const FewTokenParams& p) {
  return p.x_has_vectors && p.columns % 8 == 0 && p.column_tiles % 2 == 0 &&
         reinterpret_cast<uintptr_t>(p.norm) % 16 == 0;
}

}  // namespace

bool plan_few_token_small(const FewTokenMachine& machine, FewTokenParams& p, FewTokenSmallPlan& plan,
                          LaunchShape& shape) {
  if (p.tokens > kFewTokenSmallMost) return false;
  // The activations of a slice take up to 120 KiB; a norm needs rows that who makes operands sees whole.
  constexpr int kMostSliceTiles = 240;
  p.slices = ceil_div(p.column_tiles * p.tokens, kMostSliceTiles);
  plan.slice_tiles = ceil_div(p.column_tiles, p.slices);
  p.slices = ceil_div(p.column_tiles, plan.slice_tiles);
  const int most_blocks = machine.multiprocessors * machine.blocks_per_multiprocessor / p.slices;
  if (most_blocks < p.run_count) return false;
  const int blocks = cut_rows(p, most_blocks, plan);
  plan.has_operands =
      p.tokens > kMostOwnOperands || p.slices > 1 || !can_bring_own(p) || !can_make_u(p, blocks);
  plan.rank_slots = plan.has_operands ? 0 : rank_slots(p);
  plan.token_warps = warps_of(plan) / p.tokens;
  const int shared_bytes = fit_shared(machine, p, plan);
  if (static_cast<size_t>(shared_bytes) > machine.shared_bytes) return false;
  shape.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(p.slices));
  shape.block = static_cast<unsigned>(kWarp * warps_of(plan));
  shape.shared_bytes = static_cast<size_t>(shared_bytes);
  return true;
}

void launch_few_token_small(CudaStream& stream, const FewTokenParams& p, const FewTokenSmallPlan& plan,
                            const LaunchShape& shape) {
  if (plan.has_operands) return launch_few_token_8(stream, p, plan, shape);
  if (plan.rank_slots == 0) return launch_few_token_2(stream, p, plan, shape);
  FewTokenSmallPlan adapted = plan;
  adapted.u_entries = arrivals<FewTokenSmallPlan, kMostU + 2, uint64_t>(stream);
  adapted.u_state = adapted.u_entries + kMostU;
  launch_few_token_2_adapted(stream, p, adapted, shape);
}

}  // namespace onggi::cuda

// few_token.h for 1 to 8 tokens.
#pragma once

#include "kernels/cuda/few_token.cuh"

namespace onggi::cuda {

inline constexpr int kFewTokenSmallMost = 8;  // tokens
// With more tokens it is faster to make operands of them once than in every block.
inline constexpr int kMostOwnOperands = 2;
// Of their adapters: ranks for which a block makes u, and values of u in all.
inline constexpr int kMostOwnRanks = 16, kMostU = 2048;

// Where a block's operands come from.
enum class SmallInput : uint8_t {
  kOwn,       // it makes them of x: one or two tokens
  kAdapted,   // likewise, and u of the adapters (few_token_small_adapters.cuh)
  kOperands,  // launch_few_token_inputs has made them, and u
};
constexpr bool makes_own(SmallInput input) { return input != SmallInput::kOperands; }

// A block takes half of a multiprocessor's registers, so that the next kernel's block can start beside it.
template <SmallInput kInput>
struct SmallShape {
  // One or two tokens need little arithmetic: fewer warps have longer rings in the same memory.
  static constexpr int kWarps = makes_own(kInput) ? 8 : 12, kThreads = kWarps * kWarp;
  // At most so many rows of tiles are on their way to an output at a time.
  static constexpr int kPhaseRows = makes_own(kInput) ? 32 : 24;
  // What warps leave of them (SmallRows::row_slots of each row), most where each has whole rows.
  static constexpr int kPartialSlots = 2 * kPhaseRows;
};

struct FewTokenMachine {
  int multiprocessors;
  size_t shared_bytes;  // of a block
  int blocks_per_multiprocessor;
  int ring_tiles;  // 0: by the room that there is
};
inline constexpr int kSmallRingMost = 6;  // tiles

// Bytes of shared memory that each block costs besides its own, and of a block beside another of its size.
inline constexpr int kReservedShared = 1024;
inline int half_of_shared(const FewTokenMachine& machine) {
  return static_cast<int>((machine.shared_bytes + kReservedShared) / 2) - kReservedShared;
}

struct FewTokenSmallPlan {
  // Each run has blocks of its own, each with neighbouring tiles of rows.
  int first_block[kMaxLinearGroup], blocks[kMaxLinearGroup];
  int slice_tiles;    // of 256 columns, of a slice of K
  int token_warps;    // that bring the activations of one token
  bool has_operands;  // launch_few_token_inputs has made them
  // The kernel before, the product of another dtype, starts this one after what wrote x was done: x may be
  // read at once, and the wait comes before the outputs.
  bool waits_late;
  int row_bytes;  // of a token's activations in shared memory
  // Where things lie in shared memory; NF4's table comes first, so that its address is a constant.
  int activations, reductions, factors, partials, ring;
  int block_factors, block_factors_stride, zeros;  // of few_token_scaled.cuh; floats of a token
  int ring_slot, ring_slots;                       // bytes of a tile in the ring; tiles of a warp's ring
  // few_token_small_adapters.cuh: ranks of each member, the largest padded to fours (0: no adapters, or those
  // of operands), and where the block has u and what it copies of u_entries. Rows of B of the threads' first
  // outputs, which are brought while products are computed; bytes of a row, 0: they are read where they lie.
  int rank_slots, lora_u, lora_entries, lora_b, lora_row;
  uint64_t* u_entries;  // [member][T][rank_slots]
  uint64_t* u_state;    // [2]
};

// Fills in the slices of params, the plan and the launch's shape. false: not for this kernel.
bool plan_few_token_small(const FewTokenMachine& machine, FewTokenParams& params, FewTokenSmallPlan& plan,
                          LaunchShape& shape);
void launch_few_token_small(CudaStream& stream, const FewTokenParams& params, const FewTokenSmallPlan& plan,
                            const LaunchShape& shape);

// By where the operands come from.
void launch_few_token_2(CudaStream& stream, const FewTokenParams& params, const FewTokenSmallPlan& plan,
                        const LaunchShape& shape);
void launch_few_token_2_adapted(CudaStream& stream, const FewTokenParams& params,
                                const FewTokenSmallPlan& plan, const LaunchShape& shape);
void launch_few_token_8(CudaStream& stream, const FewTokenParams& params, const FewTokenSmallPlan& plan,
                        const LaunchShape& shape);

}  // namespace onggi::cuda

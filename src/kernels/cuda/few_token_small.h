// few_token.h for 1 to 8 tokens.
#pragma once

#include "kernels/cuda/few_token.cuh"

namespace onggi::cuda {

inline constexpr int kFewTokenSmallMost = 8;  // tokens

struct FewTokenMachine {
  int multiprocessors;
  size_t shared_bytes;  // of a block
  int blocks_per_multiprocessor;
  int ring_tiles;  // 0: by the room that there is
};

struct FewTokenSmallPlan {
  // Each run has blocks of its own, each with neighbouring tiles of rows.
  int first_block[kMaxLinearGroup], blocks[kMaxLinearGroup];
  int slice_tiles;  // of 256 columns, of a slice of K
  // At most so many tiles of rows are on their way to an output at a time.
  int phase_rows;
  int partial_slots;  // of a warp
  int token_warps;    // that bring the activations of one token
  bool has_operands;  // launch_few_token_operands has made them
  // The kernel before is few_token_lora_input, which starts this one after what wrote x was done: x may be
  // read at once, and the wait comes before the outputs.
  bool waits_late;
  int row_bytes;  // of a token's activations in shared memory
  // Where things lie in shared memory; the activations come first.
  int reductions, factors, partials, table, ring;
  int ring_slot, ring_slots;  // bytes of a tile in the ring; tiles of a warp's ring
};

// Fills in the slices of params, the plan and the launch's shape. false: not for this kernel.
bool plan_few_token_small(const FewTokenMachine& machine, FewTokenParams& params, FewTokenSmallPlan& plan,
                          LaunchShape& shape);
void launch_few_token_small(CudaStream& stream, const FewTokenParams& params, const FewTokenSmallPlan& plan,
                            const LaunchShape& shape);

}  // namespace onggi::cuda

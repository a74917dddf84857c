// few_token.h for up to 64 tokens.
#pragma once

#include "kernels/cuda/few_token_small.h"

namespace onggi::cuda {

inline constexpr int kFewTokenLargeMost = 64;  // tokens

struct FewTokenLargePlan {
  int first_step[kMaxLinearGroup];  // of each run; a step is a block's pairs of tiles
  int slice_tiles;                  // of 256 columns, of a slice of K
  int stages;                       // of the rings: 2 or 3
  // Where things lie in shared memory: the ring of activations comes first.
  int stage_bytes;  // of the ring's activations of a stage
  int ring_slot;    // bytes of a warp's tiles of a stage
  int ring, table;
};

// Fills in the slices of params, the plan and the launch's shape. false: not for this
// kernel.
bool plan_few_token_large(const FewTokenMachine& machine, FewTokenParams& params, FewTokenLargePlan& plan,
                          LaunchShape& shape);

void launch_few_token_large(CudaStream& stream, const FewTokenParams& params, const FewTokenLargePlan& plan,
                            const LaunchShape& shape);

// By the most tokens.
void launch_few_token_32(CudaStream& stream, const FewTokenParams& params, const FewTokenLargePlan& plan,
                         const LaunchShape& shape);
void launch_few_token_64(CudaStream& stream, const FewTokenParams& params, const FewTokenLargePlan& plan,
                         const LaunchShape& shape);

}  // namespace onggi::cuda

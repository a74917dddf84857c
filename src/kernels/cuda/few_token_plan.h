// How the work of few_token.h is cut up: plain arithmetic on the host.
#pragma once

#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/placed_layout.h"

namespace onggi::cuda {

// The most tokens of one launch.
inline constexpr int kFewTokenMost = 64;

struct FewTokenMachine {
  int multiprocessors;
  size_t shared_bytes;  // of a block
  int blocks_per_multiprocessor;
  int ring_tiles;  // 0: as many as fit
};

// Fills in runs, steps, slices, shared and the parts of params (not their address), whose members, tokens,
// columns and activate are set. Returns the grid. false: the shape or a dtype is not one for tensor cores.
bool plan_few_tokens(const FewTokenMachine& machine, FewTokenParams& params, LaunchShape& shape);

// Whether the plan writes parts.
inline bool has_parts(const FewTokenParams& params) { return params.partial_count > 0; }

}  // namespace onggi::cuda

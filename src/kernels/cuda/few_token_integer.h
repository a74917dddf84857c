// few_token.h by whole numbers, for 1 to 8 tokens and the dtypes whose tiles suit it: the fastest way to
// decode. Activations become int8 with a scale for every 32 columns of a token, weights stay the whole
// numbers that they are stored as, and tensor cores multiply bytes: one product takes 32 columns of 16 rows,
// and two operations of logic make its four operands' nibbles.
//
// The error is that of int8 activations: half a step of (largest of 32 columns) / 127 for each, at random.
#pragma once

#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/few_token_plan.h"

namespace onggi::cuda {

inline constexpr int kFewTokenIntegerMost = 8;  // tokens

struct FewTokenIntegerPlan {
  // Each run has blocks of its own, each with neighbouring tiles of rows.
  int first_block[kMaxLinearGroup], blocks[kMaxLinearGroup];
  // At most so many tiles of rows are on their way to an output at a time.
  int phase_rows;
  int row_bytes;  // of a token's columns in shared memory
  // Where things lie in shared memory; rows of columns come first.
  int factors, squares, inverse_rms, partials;
  int partial_slots;  // of a warp
};

// Fills in the runs of params, the plan and the launch's shape. false: not for this kernel.
bool plan_few_token_integer(const FewTokenMachine& machine, FewTokenParams& params, FewTokenIntegerPlan& plan,
                            LaunchShape& shape);
void launch_few_token_integer(CudaStream& stream, const FewTokenParams& params,
                              const FewTokenIntegerPlan& plan, const LaunchShape& shape);

// By the most tokens.
void launch_few_token_integer_1(CudaStream& stream, const FewTokenParams& params,
                                const FewTokenIntegerPlan& plan, const LaunchShape& shape);
void launch_few_token_integer_2(CudaStream& stream, const FewTokenParams& params,
                                const FewTokenIntegerPlan& plan, const LaunchShape& shape);
void launch_few_token_integer_4(CudaStream& stream, const FewTokenParams& params,
                                const FewTokenIntegerPlan& plan, const LaunchShape& shape);
void launch_few_token_integer_8(CudaStream& stream, const FewTokenParams& params,
                                const FewTokenIntegerPlan& plan, const LaunchShape& shape);

}  // namespace onggi::cuda

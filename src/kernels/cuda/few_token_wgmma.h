// few_token.h for up to 128 tokens on Hopper.
#pragma once

#include "kernels/cuda/few_token_small.h"

namespace onggi::cuda {

inline constexpr int kFewTokenWgmmaMost = 128;  // tokens

// Where products of warpgroups want their activations, for each half of 256 columns, that is 8 products of 16
// columns: two blocks of 64 columns, each `rows` rows of 128 bytes, whose pieces of 16 bytes are swapped as
// wgmma reads them (hopper.cuh). Lane (g, p) has columns 2 p, 2 p + 1, 2 p + 8 and 2 p + 9 of a product. The
// bytes of a token's eight columns from a multiple of 8 on, in pairs: pair i < 4 at operand_image_word.
constexpr int operand_half_bytes(int rows) { return 256 * rows; }
__device__ __forceinline__ int64_t operand_image_word(Operands operands, int rows, int token, int column,
                                                      int i) {
  const int place = place_of_column(operands, column), pair = place / 8 % 4, j = place / 32 % 4;
  const int piece = (4 * (j % 2) + i) ^ (token % 8);
  return static_cast<int64_t>(place / 128) * operand_half_bytes(rows) + (j / 2 * rows + token) * 128 +
         16 * piece + 4 * pair;
}
struct FewTokenWgmmaPlan {
  int first_step[kMaxLinearGroup];  // of each run; a step is a block's tiles of rows
  int input_rows;                   // of the activations: the tokens that the kernel is made for
  int slice_tiles;                  // of 256 columns, of a slice of K
  int input_slots;                  // halves of 256 columns of the activations in their ring
  int ring_slot, ring_slots;        // bytes of a tile in a warp's ring; its tiles
  // Where things lie in shared memory: the ring of activations comes first.
  int barriers, table, ring;
};

struct FewTokenWgmmaMachine {
  FewTokenMachine machine;
  int groups, slices;  // warpgroups of a block, slices of K; 0: those that should be fastest
};

// Fills in the slices of params, the plan and the launch's shape. false: not for this
// kernel.
bool plan_few_token_wgmma(const FewTokenWgmmaMachine& machine, FewTokenParams& params,
                          FewTokenWgmmaPlan& plan, LaunchShape& shape);

void launch_few_token_wgmma(CudaStream& stream, const FewTokenParams& params, const FewTokenWgmmaPlan& plan,
                            const LaunchShape& shape);

// By the most tokens.
void launch_few_token_wgmma_16(CudaStream& stream, const FewTokenParams& params,
                               const FewTokenWgmmaPlan& plan, const LaunchShape& shape);
void launch_few_token_wgmma_32(CudaStream& stream, const FewTokenParams& params,
                               const FewTokenWgmmaPlan& plan, const LaunchShape& shape);
void launch_few_token_wgmma_64(CudaStream& stream, const FewTokenParams& params,
                               const FewTokenWgmmaPlan& plan, const LaunchShape& shape);
void launch_few_token_wgmma_128(CudaStream& stream, const FewTokenParams& params,
                                const FewTokenWgmmaPlan& plan, const LaunchShape& shape);

}  // namespace onggi::cuda

// Products of few tokens with weights of any dtype: what decoding spends its time on. A step reads every
// weight once, so these kernels are made to keep the memory busy: 4.67 GB for a token of Qwen3-8B in Q4_K_M
// are 1.55 ms of an H100's 3.0 TB/s.
//
// Both operands are f16, sums are fp32. A token's activations are multiplied by a power of two that brings
// the largest to 2^7, so that none overflows and the 11 bits of those that matter are kept; bf16 activations
// lose nothing. Weights become f16 at the very end of their decoding (placed_formats.cuh). Plain bf16 weights
// go through products of bf16.
//
// Up to 8 tokens a block keeps its activations (few_token_small.cuh); with more they stream through
// (few_token_large.cuh, or few_token_wgmma.cuh on Hopper).
#pragma once

#include "kernels/ops/context.h"
#include "kernels/ops/linear.h"

namespace onggi::cuda {

// What a benchmark may vary.
struct FewTokenTuning {
  int blocks_per_multiprocessor = 1;
  bool overlap_launches = true;  // programmatic dependent launch (sm_90)
  int ring_tiles = 0;            // steps in the ring of each warp, 1 to 6; 0: by the room that there is
  int fewest_wgmma_tokens = 9;   // from so many tokens on by products of warpgroups, where there are (sm_90)
  int groups = 0, slices = 0;    // warpgroups of a block, slices of K; 0: those that should be fastest
};

// What tests/gpu/few_token_bench.cc and decode_step_bench.cc found fastest at the shapes of Qwen3-8B: beyond
// two tokens on an H100, for one, NF4 and plain weights on an H200.
FewTokenTuning best_tuning(const AdaptedLinearArgs& args);

// Computes AdaptedLinearArgs where T is small enough for it to be faster than dequantising the weights for a
// library's product. False: nothing was queued (too many tokens, f32 precision, dropout, lora_u wanted, rows
// that are no multiples of 16 bytes). args.normed and args.u are not used.
bool few_token_linear(const OpContext& context, const AdaptedLinearArgs& args);
bool few_token_linear(const OpContext& context, const AdaptedLinearArgs& args, const FewTokenTuning& tuning);

// GatedLinearArgs likewise; gate and up are not written. False also where their dtypes differ.
bool few_token_gated_linear(const OpContext& context, const GatedLinearArgs& args);
bool few_token_gated_linear(const OpContext& context, const GatedLinearArgs& args,
                            const FewTokenTuning& tuning);

}  // namespace onggi::cuda

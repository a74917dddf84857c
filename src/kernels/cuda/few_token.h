// Products of few tokens with weights of any dtype: what decoding spends its time on. A step reads every
// weight once, so these kernels are made to keep the memory busy: 4.67 GB for a token of Qwen3-8B in Q4_K_M
// are 1.55 ms of an H100's 3.0 TB/s.
//
// Activations are bf16 (f32 rounded to it), weights whole numbers times a scale: the whole numbers go through
// bf16 tensor core products, exactly, with fp32 sums, and each sub-block's sum is scaled in fp32. So the only
// roundings are those of bf16 activations, which err three times less than int8 activations with a scale per
// 32 values do. NF4's code is rounded to bf16, its absmaxes are applied in fp32.
// Up to 8 tokens of the dtypes that few_token_integer.h has go through products of bytes nevertheless: bf16
// ones take more operations than the memory leaves time for.
#pragma once

#include "kernels/ops/context.h"
#include "kernels/ops/linear.h"

namespace onggi::cuda {

// What products are made of: bf16 alone, or bytes where few_token_integer.h takes them.
enum class FewTokenProducts : uint8_t { kBF16, kIntegers };

// What a benchmark may vary.
struct FewTokenTuning {
  int blocks_per_multiprocessor = 1;
  bool overlap_launches = true;  // programmatic dependent launch (sm_90)
  // Tiles in the ring of each warp, 2 to 4; 0: as many as leave room for a block of the next kernel, where
  // its copies can begin early.
  int ring_tiles = 0;
  FewTokenProducts products = FewTokenProducts::kIntegers;
};

// What tests/gpu/few_token_bench.cc found fastest on an H100 with Qwen3-8B in Q4_K_M: bytes up to 4 tokens
// (2.27 ms a step for one, where bf16 took 3.20), bf16 beyond (4.11 ms for 8, bytes 5.14).
FewTokenTuning best_tuning(int64_t tokens);

// Computes AdaptedLinearArgs where T is small enough for it to be faster than dequantising the weights for a
// library's product. False: nothing was queued (too many tokens, f32 precision, dropout, lora_u wanted, rows
// that are no multiples of 16 bytes). args.normed is used where the norm cannot be fused; args.u is not used.
bool few_token_linear(const OpContext& context, const AdaptedLinearArgs& args);
bool few_token_linear(const OpContext& context, const AdaptedLinearArgs& args, const FewTokenTuning& tuning);

// GatedLinearArgs likewise; gate and up are not written. False also where their dtypes differ.
bool few_token_gated_linear(const OpContext& context, const GatedLinearArgs& args);
bool few_token_gated_linear(const OpContext& context, const GatedLinearArgs& args,
                            const FewTokenTuning& tuning);

}  // namespace onggi::cuda

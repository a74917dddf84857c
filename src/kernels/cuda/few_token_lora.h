// The first half of adapters where the product makes its own operands (one or two tokens): in f32, by small
// blocks that find room beside the product's. With more tokens few_token_inputs.h does it, with tensor cores.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/ops/linear.h"

namespace onggi::cuda {

// u_i = norm(x) A_i^T, fp32
struct FewTokenLoraArgs {
  struct Member {
    const float* a;  // f32 [R, K]
    float* u;        // f32 [T, R]
    int rank;        // R; 0: no adapter
  };
  const void* x;  // [T, K], rows x_stride elements apart; f32 or bf16
  bool x_is_bf16;
  int64_t x_stride;
  const float* norm;  // f32 [K]; null: norm(x) = x
  float epsilon;
  int tokens, columns, count;
  Member members[kMaxLinearGroup];
  // How many blocks of the next kernel read x as soon as this one has seen that it is there (input_is_there),
  // for which they start at once; 0: they start then.
  int early_readers = 0;
};
// 0 before and after; in between, those of early_readers that have not seen x yet.
unsigned* input_is_there(CudaStream& stream);
// Bytes of working memory, aligned to 16, that it needs.
size_t few_token_lora_scratch(const FewTokenLoraArgs& args);
void few_token_lora_input(CudaStream& stream, const FewTokenLoraArgs& args, void* scratch, Overlap overlap);

}  // namespace onggi::cuda

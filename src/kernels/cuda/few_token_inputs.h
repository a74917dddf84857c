// What the products of few_token.h take from x, in one launch before theirs: operands, and the first half of
// adapters.
#pragma once

#include "kernels/cuda/few_token.cuh"

namespace onggi::cuda {

struct FewTokenInputs {
  bool operands;   // f16, bf16 and factors of the params, those that are not null
  int image_rows;  // of the order of operand_image_word; 0: of place_of_column
  // How many blocks of the next kernel read x as soon as this one has seen that it is there (input_is_there),
  // for which they start at once; 0: they start then. Without operands alone.
  int early_readers;
  void* scratch;  // few_token_inputs_scratch() bytes, aligned to 16
};
// Of the params: u of the members with adapters, too.
void launch_few_token_inputs(CudaStream& stream, const FewTokenParams& params, const FewTokenInputs& inputs,
                             Overlap overlap);
size_t few_token_inputs_scratch(const FewTokenParams& params);
// 0 before and after; in between, those of early_readers that have not seen x yet.
unsigned* input_is_there(CudaStream& stream);

}  // namespace onggi::cuda

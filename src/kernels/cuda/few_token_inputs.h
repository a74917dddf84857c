// What products that do not make their own operands take from x, in one launch before theirs: operands, and
// the first half of adapters.
#pragma once

#include "kernels/cuda/few_token.cuh"

namespace onggi::cuda {

struct FewTokenInputs {
  int image_rows;  // of the order of operand_image_word; 0: of place_of_column
  void* scratch;   // few_token_inputs_scratch() bytes, aligned to 16
};
// Of the params: u of the members with adapters, too.
void launch_few_token_inputs(CudaStream& stream, const FewTokenParams& params, const FewTokenInputs& inputs,
                             Overlap overlap);
size_t few_token_inputs_scratch(const FewTokenParams& params);

}  // namespace onggi::cuda

// What products that do not make their own operands take from x, in one launch before theirs: operands, and
// the first half of adapters.
#pragma once

#include "kernels/cuda/few_token.cuh"

namespace onggi::cuda {

// Writes f16, bf16 and factors of the params, those that are not null, and u of the members with adapters.
// image_rows: of the order of operand_image_word; 0: that of place_of_column. scratch:
// few_token_inputs_scratch() bytes, aligned to 16.
void launch_few_token_inputs(CudaStream& stream, const FewTokenParams& params, int image_rows, void* scratch,
                             Overlap overlap);
size_t few_token_inputs_scratch(const FewTokenParams& params);

}  // namespace onggi::cuda

// Block-quantised weights on the device (placed_layout.h): their way in, as plain matrices, and as
// embeddings.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <vector>

#include "device/cuda_stream.h"
#include "kernels/ops/linear.h"

namespace onggi::cuda {

// OpTable::place_weight for dtypes of placed_tile(): the blocks are copied in and repacked by the device, in
// pieces of working memory. K is a multiple of the dtype's block.
WeightView place_block_weight(Stream& stream, const WeightView& host, std::vector<Buffer>& buffers);

// Rows [first_row, first_row + rows) of a placed weight as [rows, K], `stride` elements from row to row;
// exactly decode_weight's values, rounded where out is bf16. first_row is a multiple of 16, stride at least
// K.
struct DequantizeBlockArgs {
  WeightView weight;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t stride = 0;
};
void dequantize_block_weight(CudaStream& stream, const DequantizeBlockArgs& args, __nv_bfloat16* out);
void dequantize_block_weight(CudaStream& stream, const DequantizeBlockArgs& args, float* out);

// OpTable::embedding for a placed table.
void embedding_block(const OpContext& context, const EmbeddingArgs& args);

}  // namespace onggi::cuda

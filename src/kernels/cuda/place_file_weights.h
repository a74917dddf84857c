// How weights come from files.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/cuda_stream.h"
#include "kernels/ops/file_weight.h"

namespace onggi::cuda {

// OpTable::place_file_weights.
PlacedWeights place_file_weights(Stream& stream, std::span<const FileWeight> weights,
                                 std::vector<Buffer>& buffers);

// Rows of blocks as they are in a file (raw, on the device) become rows of tiles (placed_layout.h). The
// blocks are read once and the tiles written once: 10 GB for 8B in Q4_K_M.
void repack_blocks(CudaStream& stream, DType dtype, const uint8_t* raw, int64_t rows, int64_t columns,
                   uint8_t* out);

}  // namespace onggi::cuda

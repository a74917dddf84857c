// What Hopper's copy engine must know of a tensor (hopper.cuh).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace onggi {

// A bf16 tensor [rows, heads, width] in global memory, read in boxes of `box_rows` rows of one head and 64
// columns; what lies beyond the last row becomes zero. In shared memory a box is dense rows of 128 bytes
// whose 16-byte pieces are swapped: piece c of row r lies where c XOR (r % 8) would. A box begins at a
// multiple of 1024.
using TensorMap = CUtensorMap;
struct TensorShape {
  int64_t rows, heads, width;
  int box_rows;
};
// data: aligned to 16; width: a multiple of 64.
TensorMap make_tensor_map(const void* data, const TensorShape& shape);

}  // namespace onggi

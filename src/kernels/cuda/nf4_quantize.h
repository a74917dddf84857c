// NF4 encoding on the device: bit for bit what Nf4Encoder (blocks/nf4.h) makes on the CPU, so that a 16-bit
// base model becomes NF4 as fast as its bytes arrive.
#pragma once

#include <cstdint>

#include "device/stream.h"
#include "tensor/dtype.h"

namespace onggi::cuda {

// The first step, in pieces of any size and order: elements [begin, begin + count) of the row-major weight
// become indices and f32 absmaxes. InternalError for other dtypes and counts, for streams that are not
// CUDA's, and for values that are not aligned to 16 bytes.
struct Nf4IndicesArgs {
  const void* values;  // dtype [count], device memory
  DType dtype;         // kF32, kF16 or kBF16
  int64_t begin;       // multiple of 64
  int64_t count;       // multiple of 64
  uint8_t* packed;     // u8 [N K / 2]: of the whole weight, in the layout of Nf4Storage
  float* absmax;       // f32 [N K / 64]: of the whole weight
};
void nf4_indices(Stream& stream, const Nf4IndicesArgs& args);

// The second step, once all indices are made: the double quantisation of the absmaxes.
struct Nf4AbsmaxArgs {
  const float* absmax;   // f32 [blocks]
  int64_t blocks;        // N K / 64, at least 1
  uint8_t* absmax_q8;    // u8 [blocks]
  float* nested_absmax;  // f32 [ceil(blocks / 256)]
  float* offset;         // f32, device memory: WeightView::nf4_offset is its value
};
void nf4_quantize_absmax(Stream& stream, const Nf4AbsmaxArgs& args);

}  // namespace onggi::cuda

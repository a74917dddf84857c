// The table of weight formats: how rows of f32 become blocks and back.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace onggi {

struct BlockFormat {
  DType dtype;

  // Decodes `elements` values (a whole number of blocks) to f32, bit for bit as ggml does.
  void (*decode)(const void* blocks, int64_t elements, float* out);

  // Encodes one row of `elements` values (a whole number of blocks) so that the weighted squared error is
  // small. `importance` [elements] are non-negative weights per column (mean squares of the activations that
  // meet it, as in an importance matrix), or null for the format's own default. Values must be finite; the
  // function is thread-safe. Plain types round to nearest even and ignore importance.
  void (*encode)(const float* values, int64_t elements, const float* importance, void* blocks);
};

// The format of f32, f16, bf16, q4_0, q8_0, q2_k ... q6_k. InternalError for the others; NF4 has nf4.h.
const BlockFormat& block_format(DType dtype);
// Whether block_format has it.
bool has_block_format(DType dtype);

}  // namespace onggi

// Q8_0: 32 signed bytes and one scale; 8.5 bits per weight.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace onggi {

// value[i] = d * qs[i]
struct BlockQ8_0 {
  static constexpr int kElements = 32;
  uint16_t d;     // byte 0: f16 scale
  int8_t qs[32];  // byte 2
};
static_assert(sizeof(BlockQ8_0) == 34);

inline void decode_block(const BlockQ8_0& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 32; ++i) out[i] = d * block.qs[i];
}

}  // namespace onggi

// Q4_0: 32 four-bit values around 8 and one scale; 4.5 bits per weight.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace onggi {

// value[i] = d * (q[i] - 8), q[i] = low nibble of qs[i] for i < 16, high nibble of qs[i - 16] otherwise
struct BlockQ4_0 {
  static constexpr int kElements = 32;
  uint16_t d;      // byte 0: f16 scale, of either sign
  uint8_t qs[16];  // byte 2
};
static_assert(sizeof(BlockQ4_0) == 18);

inline void decode_block(const BlockQ4_0& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * ((block.qs[i] & 15) - 8);
    out[i + 16] = d * ((block.qs[i] >> 4) - 8);
  }
}

}  // namespace onggi

// Q2_K: super-blocks of 256 = 16 sub-blocks of 16 with a 4-bit scale and a 4-bit minimum; 2.625 bits per
// weight.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace onggi {

// value[i] = d * (scales[s] & 15) * q[i] - dmin * (scales[s] >> 4), s = i / 16
// q[128h + 32j + l] = bits 2j, 2j+1 of qs[32h + l]   (h < 2, j < 4, l < 32)
struct BlockQ2K {
  static constexpr int kElements = 256;
  uint8_t scales[16];  // byte 0: sub-block scale (low nibble) and minimum (high nibble)
  uint8_t qs[64];      // byte 16
  uint16_t d;          // byte 80: f16 scale of the scales
  uint16_t dmin;       // byte 82: f16 scale of the minimums
};
static_assert(sizeof(BlockQ2K) == 84);

inline void decode_block(const BlockQ2K& block, float* out) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * (block.scales[sub] & 15);
    const float minimum = dmin * (block.scales[sub] >> 4);
    const uint8_t* q = block.qs + 32 * (sub / 8) + 16 * (sub % 2);
    const int shift = 2 * ((sub % 8) / 2);
    for (int l = 0; l < 16; ++l) out[16 * sub + l] = scale * ((q[l] >> shift) & 3) - minimum;
  }
}

}  // namespace onggi

// Q6_K: super-blocks of 256 = 16 sub-blocks of 16 with a signed 8-bit scale; 6.5625 bits per weight.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace onggi {

// value[i] = d * scales[s] * (q[i] - 32), s = i / 16, q of 6 bits. With i = 128h + 32j + l (h < 2, j < 4, l <
// 32): low four bits: nibble j / 2 (0 = low) of ql[64h + 32 (j % 2) + l]; high two: bits 2j, 2j+1 of qh[32h +
// l]
struct BlockQ6K {
  static constexpr int kElements = 256;
  uint8_t ql[128];    // byte 0: low four bits
  uint8_t qh[64];     // byte 128: high two bits
  int8_t scales[16];  // byte 192
  uint16_t d;         // byte 208: f16 scale of the scales
};
static_assert(sizeof(BlockQ6K) == 210);

inline void decode_block(const BlockQ6K& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * block.scales[sub];
    const int half = sub / 8, j = (sub % 8) / 2, first = 16 * (sub % 2);
    const uint8_t* low = block.ql + 64 * half + 32 * (j % 2) + first;
    const uint8_t* high = block.qh + 32 * half + first;
    for (int l = 0; l < 16; ++l) {
      const int value = ((low[l] >> (4 * (j / 2))) & 15) | ((high[l] >> (2 * j)) & 3) << 4;
      out[16 * sub + l] = scale * (value - 32);
    }
  }
}

}  // namespace onggi

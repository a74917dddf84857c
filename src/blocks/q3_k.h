// Q3_K: super-blocks of 256 = 16 sub-blocks of 16 with a signed 6-bit scale; 3.4375 bits per weight.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace onggi {

// value[i] = d * scale(s) * (q[i] - 4), s = i / 16, q of 3 bits:
// q[128h + 32j + l] = bits 2j, 2j+1 of qs[32h + l], plus 4 where bit 4h + j of hmask[l] is set (h < 2, j < 4,
// l < 32)
struct BlockQ3K {
  static constexpr int kElements = 256;
  uint8_t hmask[32];   // byte 0: third bits
  uint8_t qs[64];      // byte 32: low two bits
  uint8_t scales[12];  // byte 96: 16 scales of 6 bits, see q3k_scale
  uint16_t d;          // byte 108: f16 scale of the scales
};
static_assert(sizeof(BlockQ3K) == 110);

// Scale of sub-block s, -32 .. 31: the low four bits are in byte s % 8 (low nibble for s < 8, high nibble for
// s >= 8), the high two in byte 8 + s % 4 at bit 2 * (s / 4); 32 is subtracted.
inline int q3k_scale(const uint8_t scales[12], int s) {
  const int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
  const int high = (scales[8 + s % 4] >> (2 * (s / 4))) & 3;
  return (low | high << 4) - 32;
}

inline void decode_block(const BlockQ3K& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * q3k_scale(block.scales, sub);
    const int half = sub / 8, pair = (sub % 8) / 2, first = 16 * (sub % 2);
    const uint8_t* q = block.qs + 32 * half + first;
    const uint8_t* high = block.hmask + first;
    for (int l = 0; l < 16; ++l) {
      const int low_bits = (q[l] >> (2 * pair)) & 3;
      const int high_bit = (high[l] >> (4 * half + pair)) & 1;
      out[16 * sub + l] = scale * (low_bits + 4 * high_bit - 4);
    }
  }
}

}  // namespace onggi

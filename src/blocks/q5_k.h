// Q5_K: Q4_K with a fifth bit per weight; 5.5 bits per weight.
#pragma once

#include <cstdint>

#include "blocks/q4_k.h"
#include "tensor/dtype.h"

namespace onggi {

// value[i] = d * scale(s) * q[i] - dmin * minimum(s), s = i / 32; low four bits as in Q4_K, and
// fifth bit of q[32s + l] = bit s of qh[l]   (s < 8, l < 32)
struct BlockQ5K {
  static constexpr int kElements = 256;
  uint16_t d;          // byte 0: f16 scale of the scales
  uint16_t dmin;       // byte 2: f16 scale of the minimums
  uint8_t scales[12];  // byte 4: see q4k_scale_min
  uint8_t qh[32];      // byte 16: fifth bits
  uint8_t qs[128];     // byte 48: low four bits
};
static_assert(sizeof(BlockQ5K) == 176);

inline void decode_block(const BlockQ5K& block, float* out) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleMin packed = q4k_scale_min(block.scales, sub);
    const float scale = d * packed.scale;
    const float minimum = dmin * packed.minimum;
    const uint8_t* q = block.qs + 32 * (sub / 2);
    const int shift = 4 * (sub % 2);
    for (int l = 0; l < 32; ++l) {
      const int value = ((q[l] >> shift) & 15) | ((block.qh[l] >> sub) & 1) << 4;
      out[32 * sub + l] = scale * value - minimum;
    }
  }
}

}  // namespace onggi

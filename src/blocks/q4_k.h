// Q4_K: super-blocks of 256 = 8 sub-blocks of 32 with a 6-bit scale and a 6-bit minimum; 4.5 bits per weight.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace onggi {

// Scale and minimum of a sub-block of Q4_K and Q5_K, 0 .. 63 each.
struct ScaleMin {
  int scale;
  int minimum;
};

// Eight pairs of six bits in 12 bytes: pairs 0 .. 3 have their scale in the low six bits of bytes 0 .. 3 and
// their minimum in those of bytes 4 .. 7; pair s >= 4 has the low four bits of both in byte s + 4 (scale low,
// minimum high) and the high two in the free top bits of bytes s - 4 and s.
inline ScaleMin q4k_scale_min(const uint8_t scales[12], int s) {
  if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
  return {(scales[s + 4] & 15) | (scales[s - 4] >> 6) << 4, (scales[s + 4] >> 4) | (scales[s] >> 6) << 4};
}
// The inverse, for all eight pairs.
inline void pack_q4k_scales(const uint8_t scale[8], const uint8_t minimum[8], uint8_t out[12]) {
  for (int s = 0; s < 4; ++s) {
    out[s] = static_cast<uint8_t>(scale[s] | (scale[s + 4] >> 4) << 6);
    out[s + 4] = static_cast<uint8_t>(minimum[s] | (minimum[s + 4] >> 4) << 6);
    out[s + 8] = static_cast<uint8_t>((scale[s + 4] & 15) | (minimum[s + 4] & 15) << 4);
  }
}

// value[i] = d * scale(s) * q[i] - dmin * minimum(s), s = i / 32
// q[64j + l] = low nibble of qs[32j + l], q[64j + 32 + l] = its high nibble   (j < 4, l < 32)
struct BlockQ4K {
  static constexpr int kElements = 256;
  uint16_t d;          // byte 0: f16 scale of the scales
  uint16_t dmin;       // byte 2: f16 scale of the minimums
  uint8_t scales[12];  // byte 4: see q4k_scale_min
  uint8_t qs[128];     // byte 16
};
static_assert(sizeof(BlockQ4K) == 144);

inline void decode_block(const BlockQ4K& block, float* out) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleMin packed = q4k_scale_min(block.scales, sub);
    const float scale = d * packed.scale;
    const float minimum = dmin * packed.minimum;
    const uint8_t* q = block.qs + 32 * (sub / 2);
    const int shift = 4 * (sub % 2);
    for (int l = 0; l < 32; ++l) out[32 * sub + l] = scale * ((q[l] >> shift) & 15) - minimum;
  }
}

}  // namespace onggi

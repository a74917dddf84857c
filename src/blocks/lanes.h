// Eight f32 lanes written with the compilers' vector types.
//
// The encoders put one sub-block in each lane. The order of every sum is then fixed by the source and not by
// the machine, and the folder is compiled without contraction to fused multiply-add: an encoded file has the
// same bytes on every machine.
#pragma once

#include <algorithm>
#include <cstdint>

#include "blocks/multi_target.h"
#include "tensor/dtype.h"

namespace onggi {

inline constexpr int kLanes = 8;
typedef float F32x8 __attribute__((vector_size(32)));
typedef int32_t I32x8 __attribute__((vector_size(32)));

ONGGI_ALWAYS_INLINE F32x8 splat(float value) { return F32x8{} + value; }
ONGGI_ALWAYS_INLINE F32x8 select(const I32x8& mask, const F32x8& yes, const F32x8& no) {
  return mask ? yes : no;
}
ONGGI_ALWAYS_INLINE F32x8 smaller(const F32x8& a, const F32x8& b) { return a < b ? a : b; }
ONGGI_ALWAYS_INLINE F32x8 larger(const F32x8& a, const F32x8& b) { return a > b ? a : b; }
ONGGI_ALWAYS_INLINE F32x8 clamp(const F32x8& value, float low, float high) {
  return smaller(larger(value, splat(low)), splat(high));
}
// Nearest integer, ties to even, for |value| < 2^22: adding 1.5 * 2^23 leaves no fraction bits.
ONGGI_ALWAYS_INLINE F32x8 nearest(const F32x8& value) { return (value + 12582912.0f) - 12582912.0f; }
// 1 / value, or 0 where value is 0.
ONGGI_ALWAYS_INLINE F32x8 inverse_or_zero(const F32x8& value) {
  const I32x8 zero = value == 0.0f;
  return select(zero, F32x8{}, 1.0f / select(zero, splat(1.0f), value));
}
// To the nearest f16, ties to even, for magnitudes in f16's normal range (smaller ones keep more bits than
// f16 has).
ONGGI_ALWAYS_INLINE F32x8 round_to_f16(const F32x8& value) {
  I32x8 bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF;
  F32x8 rounded;
  __builtin_memcpy(&rounded, &bits, sizeof rounded);
  return rounded;
}
ONGGI_ALWAYS_INLINE float sum_lanes(const F32x8& v) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

// The f16 of a block's scale: beyond f16's range the largest finite value, since an infinite scale decodes to
// NaN.
inline uint16_t scale_to_f16(float value) { return f32_to_f16(std::clamp(value, -65504.0f, 65504.0f)); }
// The scale that a decoder will see.
inline float as_stored(float value) { return f16_to_f32(scale_to_f16(value)); }

}  // namespace onggi

// Stands in for CUDA's bf16 header: the types, conversions (to nearest even) and arithmetic that kernels use.
#pragma once

#include <cuda_runtime.h>

struct __nv_bfloat16 {
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) {  // NOLINT: implicit, as CUDA's
    const uint32_t bits = __float_as_uint(value);
    __x = value != value ? uint16_t{0x7FFF} : static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
  operator float() const { return __uint_as_float(uint32_t{__x} << 16); }  // NOLINT: implicit, as CUDA's
  uint16_t __x;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float x) { return {x}; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return {x}; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.__x; }
inline short __bfloat16_as_short(__nv_bfloat16 x) { return static_cast<short>(x.__x); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 x;
  x.__x = bits;
  return x;
}
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return {low, high}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 pair) { return {pair.x, pair.y}; }
inline __nv_bfloat162 __float2bfloat162_rn(float x) { return {x, x}; }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 x) { return {x, x}; }
inline float2 __bfloat1622float2(__nv_bfloat162 pair) { return {pair.x, pair.y}; }
inline __nv_bfloat16 __low2bfloat16(__nv_bfloat162 pair) { return pair.x; }
inline __nv_bfloat16 __high2bfloat16(__nv_bfloat162 pair) { return pair.y; }
inline float __low2float(__nv_bfloat162 pair) { return pair.x; }
inline float __high2float(__nv_bfloat162 pair) { return pair.y; }

inline __nv_bfloat16 __hadd(__nv_bfloat16 x, __nv_bfloat16 y) { return {float{x} + float{y}}; }
inline __nv_bfloat16 __hsub(__nv_bfloat16 x, __nv_bfloat16 y) { return {float{x} - float{y}}; }
inline __nv_bfloat16 __hmul(__nv_bfloat16 x, __nv_bfloat16 y) { return {float{x} * float{y}}; }
inline __nv_bfloat16 __hfma(__nv_bfloat16 x, __nv_bfloat16 y, __nv_bfloat16 z) {
  return {fmaf(float{x}, float{y}, float{z})};
}
inline __nv_bfloat16 __hmax(__nv_bfloat16 x, __nv_bfloat16 y) { return {fmaxf(float{x}, float{y})}; }
inline __nv_bfloat16 __hmin(__nv_bfloat16 x, __nv_bfloat16 y) { return {fminf(float{x}, float{y})}; }
inline __nv_bfloat162 __hadd2(__nv_bfloat162 x, __nv_bfloat162 y) {
  return {__hadd(x.x, y.x), __hadd(x.y, y.y)};
}
inline __nv_bfloat162 __hsub2(__nv_bfloat162 x, __nv_bfloat162 y) {
  return {__hsub(x.x, y.x), __hsub(x.y, y.y)};
}
inline __nv_bfloat162 __hmul2(__nv_bfloat162 x, __nv_bfloat162 y) {
  return {__hmul(x.x, y.x), __hmul(x.y, y.y)};
}
inline __nv_bfloat162 __hfma2(__nv_bfloat162 x, __nv_bfloat162 y, __nv_bfloat162 z) {
  return {__hfma(x.x, y.x, z.x), __hfma(x.y, y.y, z.y)};
}

// Stands in for CUDA's f16 header: the types, conversions (to nearest even) and arithmetic that kernels use.
#pragma once

#include <cuda_runtime.h>

#include "tensor/dtype.h"

struct __half {
  __half() = default;
  __half(float value)  // NOLINT: implicit, as CUDA's
      : __x(value != value ? uint16_t{0x7FFF} : onggi::f32_to_f16(value)) {}
  operator float() const { return onggi::f16_to_f32(__x); }  // NOLINT: implicit, as CUDA's
  uint16_t __x;
};
struct alignas(4) __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

inline __half __float2half(float x) { return {x}; }
inline __half __float2half_rn(float x) { return {x}; }
inline float __half2float(__half x) { return x; }
inline unsigned short __half_as_ushort(__half x) { return x.__x; }
inline short __half_as_short(__half x) { return static_cast<short>(x.__x); }
inline __half __ushort_as_half(unsigned short bits) {
  __half x;
  x.__x = bits;
  return x;
}
inline __half2 __floats2half2_rn(float low, float high) { return {low, high}; }
inline __half2 __float22half2_rn(float2 pair) { return {pair.x, pair.y}; }
inline __half2 __float2half2_rn(float x) { return {x, x}; }
inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
inline __half2 __half2half2(__half x) { return {x, x}; }
inline float2 __half22float2(__half2 pair) { return {pair.x, pair.y}; }
inline __half __low2half(__half2 pair) { return pair.x; }
inline __half __high2half(__half2 pair) { return pair.y; }
inline __half2 __low2half2(__half2 pair) { return {pair.x, pair.x}; }
inline __half2 __high2half2(__half2 pair) { return {pair.y, pair.y}; }
inline float __low2float(__half2 pair) { return pair.x; }
inline float __high2float(__half2 pair) { return pair.y; }

inline __half __hadd(__half x, __half y) { return {float{x} + float{y}}; }
inline __half __hsub(__half x, __half y) { return {float{x} - float{y}}; }
inline __half __hmul(__half x, __half y) { return {float{x} * float{y}}; }
// The product is exact in f64, and so is the sum but for its last bits: one rounding that matters.
inline __half __hfma(__half x, __half y, __half z) {
  return {static_cast<float>(double{float{x}} * float{y} + float{z})};
}
inline __half __hmax(__half x, __half y) { return {fmaxf(float{x}, float{y})}; }
inline __half __hmin(__half x, __half y) { return {fminf(float{x}, float{y})}; }
inline __half2 __hadd2(__half2 x, __half2 y) { return {__hadd(x.x, y.x), __hadd(x.y, y.y)}; }
inline __half2 __hsub2(__half2 x, __half2 y) { return {__hsub(x.x, y.x), __hsub(x.y, y.y)}; }
inline __half2 __hmul2(__half2 x, __half2 y) { return {__hmul(x.x, y.x), __hmul(x.y, y.y)}; }
inline __half2 __hfma2(__half2 x, __half2 y, __half2 z) {
  return {__hfma(x.x, y.x, z.x), __hfma(x.y, y.y, z.y)};
}

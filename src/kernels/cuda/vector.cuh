// Elements of activations and weights as f32: one at a time, and eight in 16 or 32 bytes. Stores round to
// nearest even.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace onggi {

using BFloat16 = __nv_bfloat16;
using Half = __half;

__device__ __forceinline__ float load_f32(const float* p) { return *p; }
__device__ __forceinline__ float load_f32(const BFloat16* p) { return __bfloat162float(*p); }
__device__ __forceinline__ float load_f32(const Half* p) { return __half2float(*p); }
__device__ __forceinline__ void store_f32(float* p, float value) { *p = value; }
__device__ __forceinline__ void store_f32(BFloat16* p, float value) { *p = __float2bfloat16_rn(value); }
__device__ __forceinline__ void store_f32(Half* p, float value) { *p = __float2half_rn(value); }

// The bits of two 16-bit elements and back. Never by way of the single elements: that costs instructions.
__device__ __forceinline__ uint32_t bits_of(const __nv_bfloat162& pair) {
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint32_t bits_of(const __half2& pair) {
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ __half2 half2_of(uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}

// Two values as packed 16-bit elements, `low` in the lower bits: what mma fragments and stores take.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  return bits_of(__floats2bfloat162_rn(low, high));
}
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  return bits_of(__floats2half2_rn(low, high));
}
// bf16 is the upper half of f32.
__device__ __forceinline__ float2 unpack_bf16(uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u));
}
__device__ __forceinline__ float2 unpack_f16(uint32_t pair) { return __half22float2(half2_of(pair)); }

// Eight 16-bit elements in registers <-> f32.
__device__ __forceinline__ void unpack_bf16_8(const uint4& packed, float (&values)[8]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_bf16(words[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}
__device__ __forceinline__ void unpack_f16_8(const uint4& packed, float (&values)[8]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_f16(words[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}
__device__ __forceinline__ uint4 pack_bf16_8(const float (&values)[8]) {
  return make_uint4(pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]),
                    pack_bf16(values[4], values[5]), pack_bf16(values[6], values[7]));
}
__device__ __forceinline__ uint4 pack_f16_8(const float (&values)[8]) {
  return make_uint4(pack_f16(values[0], values[1]), pack_f16(values[2], values[3]),
                    pack_f16(values[4], values[5]), pack_f16(values[6], values[7]));
}

// Eight neighbouring elements, one load or store of 16 bytes (f32: two). p is aligned to 16 bytes.
__device__ __forceinline__ void load_8(const BFloat16* p, float (&values)[8]) {
  unpack_bf16_8(*reinterpret_cast<const uint4*>(p), values);
}
__device__ __forceinline__ void load_8(const Half* p, float (&values)[8]) {
  unpack_f16_8(*reinterpret_cast<const uint4*>(p), values);
}
__device__ __forceinline__ void load_8(const float* p, float (&values)[8]) {
  const float4 low = reinterpret_cast<const float4*>(p)[0];
  const float4 high = reinterpret_cast<const float4*>(p)[1];
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}
__device__ __forceinline__ void store_8(BFloat16* p, const float (&values)[8]) {
  *reinterpret_cast<uint4*>(p) = pack_bf16_8(values);
}
__device__ __forceinline__ void store_8(Half* p, const float (&values)[8]) {
  *reinterpret_cast<uint4*>(p) = pack_f16_8(values);
}
__device__ __forceinline__ void store_8(float* p, const float (&values)[8]) {
  reinterpret_cast<float4*>(p)[0] = make_float4(values[0], values[1], values[2], values[3]);
  reinterpret_cast<float4*>(p)[1] = make_float4(values[4], values[5], values[6], values[7]);
}

}  // namespace onggi

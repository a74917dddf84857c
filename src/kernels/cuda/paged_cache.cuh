// The paged cache in device code: where tokens lie, and the 16-bit elements that tensor cores multiply.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.cuh"
#include "kernels/ops/attention.h"

namespace onggi::cuda {

inline constexpr float kLog2OfE = 1.4426950408889634f;
// Below every score: an empty maximum whose differences are never NaN.
inline constexpr float kNoScore = -1e30f;

// What mma and conversions are called for the elements of a cache.
template <typename Element>
struct CacheElement;

template <>
struct CacheElement<BFloat16> {
  static __device__ __forceinline__ uint32_t pack(float low, float high) { return pack_bf16(low, high); }
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    mma_m16n8k16_bf16(d, a, b0, b1);
  }
  static __device__ __forceinline__ uint4 pack_8(const float (&values)[8]) { return pack_bf16_8(values); }
  // Eight bf16 as elements of the cache.
  static __device__ __forceinline__ uint4 from_bf16(const uint4& packed) { return packed; }
};

template <>
struct CacheElement<Half> {
  static __device__ __forceinline__ uint32_t pack(float low, float high) { return pack_f16(low, high); }
  static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    mma_m16n8k16_f16(d, a, b0, b1);
  }
  static __device__ __forceinline__ uint4 pack_8(const float (&values)[8]) { return pack_f16_8(values); }
  static __device__ __forceinline__ uint4 from_bf16(const uint4& packed) {
    float values[8];
    unpack_bf16_8(packed, values);
    return pack_f16_8(values);
  }
};

// Row of the cache, [pages * P], that holds a token. page_tokens need not be a power of two.
__device__ __forceinline__ int64_t cache_row(const int32_t* pages, int token, int page_tokens) {
  const int index = token / page_tokens;
  return static_cast<int64_t>(pages[index]) * page_tokens + (token - index * page_tokens);
}

// function(const Element*) with the cache's element type as BFloat16, Half or float.
template <typename Function>
void with_cache_type(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kBF16:
      return function(static_cast<const BFloat16*>(nullptr));
    case DType::kF16:
      return function(static_cast<const Half*>(nullptr));
    default:
      ONGGI_CHECK(dtype == DType::kF32, "the dtype of the cache");
      return function(static_cast<const float*>(nullptr));
  }
}

}  // namespace onggi::cuda

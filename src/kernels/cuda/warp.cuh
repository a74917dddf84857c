// Reductions over a warp and over a block. Every lane and thread takes part and gets the result; the order of
// the additions is fixed, so that the same inputs give the same bits.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace onggi {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ __forceinline__ int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }

// Over groups of kLanes neighbouring lanes: 32 the whole warp, or a smaller power of two.
template <int kLanes = kWarp, typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
  return value;
}

template <int kLanes = kWarp, typename T>
__device__ __forceinline__ T warp_max(T value) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, value, offset);
    value = other > value ? other : value;
  }
  return value;
}

// Over a block of kThreads threads (a multiple of 32, in x alone). Can be called again at once: its own
// barriers keep the calls apart. Uses kThreads / 32 values of static shared memory per type.
template <int kThreads, typename T>
__device__ __forceinline__ T block_sum(T value) {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  constexpr int kWarps = kThreads / kWarp;
  value = warp_sum(value);
  if constexpr (kWarps > 1) {
    __shared__ T partial[kWarps];
    if (lane_index() == 0) partial[warp_index()] = value;
    __syncthreads();
    value = partial[0];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) value += partial[warp];
    __syncthreads();
  }
  return value;
}

template <int kThreads, typename T>
__device__ __forceinline__ T block_max(T value) {
  static_assert(kThreads % kWarp == 0 && kThreads <= 1024);
  constexpr int kWarps = kThreads / kWarp;
  value = warp_max(value);
  if constexpr (kWarps > 1) {
    __shared__ T partial[kWarps];
    if (lane_index() == 0) partial[warp_index()] = value;
    __syncthreads();
    value = partial[0];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) value = partial[warp] > value ? partial[warp] : value;
    __syncthreads();
  }
  return value;
}

}  // namespace onggi

// Activations in device code: their type as a template argument where speed counts, at run time elsewhere.
//
// Each op of activations has kernels for 16-byte accesses, instantiated per type, for arrays whose rows are
// whole vectors of eight elements at addresses divisible by 16 (all shapes of real models), and one plain
// kernel, element by element with types known at run time, for all others.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/ops/activation.h"

namespace onggi::cuda {

inline constexpr int kVector = 8;  // elements of a vector

template <typename T>
struct TypeTag {
  using Type = T;
};

// function(TypeTag<float>{}) or function(TypeTag<BFloat16>{}).
template <typename Function>
void with_activation_type(DType dtype, const Function& function) {
  ONGGI_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, dtype_name(dtype).data());
  if (dtype == DType::kF32) {
    function(TypeTag<float>{});
  } else {
    function(TypeTag<BFloat16>{});
  }
}

// Whether a row of `width` elements, its rows that far apart, can be read and written as vectors.
inline bool is_vector_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }
template <typename... Pointers>
bool fits_vectors(int64_t width, const Pointers*... data) {
  return width % kVector == 0 && (is_vector_aligned(data) && ...);
}

__device__ __forceinline__ float load_any(const ActivationView& x, int64_t i) {
  return x.dtype == DType::kF32 ? static_cast<const float*>(x.data)[i]
                                : load_f32(static_cast<const BFloat16*>(x.data) + i);
}
__device__ __forceinline__ float load_any(const Activation& x, int64_t i) {
  return x.dtype == DType::kF32 ? static_cast<const float*>(x.data)[i]
                                : load_f32(static_cast<const BFloat16*>(x.data) + i);
}
__device__ __forceinline__ void store_any(const Activation& x, int64_t i, float value) {
  if (x.dtype == DType::kF32) {
    static_cast<float*>(x.data)[i] = value;
  } else {
    store_f32(static_cast<BFloat16*>(x.data) + i, value);
  }
}

// The first statement of kernels that are launched with Overlap::kWithPrevious and read nothing before: the
// next kernel may be set up beside this one, which waits for those before.
__device__ __forceinline__ void overlap_launches() {
  grid_dependency_launch();
  grid_dependency_wait();
}

}  // namespace onggi::cuda

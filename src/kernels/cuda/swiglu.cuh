// The arithmetic of SwiGLU and its gradient.
#pragma once

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vector.cuh"

namespace onggi::cuda {

// 1 / (1 + exp(-x)). Between bf16 activations the approximate exponential and division (about 4 ulp of f32)
// are beyond what is stored; in f32 runs they are exact to an ulp or two.
template <typename T>
__device__ __forceinline__ float sigmoid(float x) {
  if constexpr (sizeof(T) == 2) {
    constexpr float kLog2E = 1.44269504f;
    return __fdividef(1.0f, 1.0f + exp2_approx(-kLog2E * x));
  } else {
    return 1.0f / (1.0f + expf(-x));
  }
}

struct GateUp {
  float gate, up;
};
// The gradients for s = sigmoid(gate): silu'(g) = s + g s (1 - s).
__device__ __forceinline__ GateUp swiglu_gradient(float dout, float gate, float up, float s) {
  const float silu = gate * s;
  return {dout * up * (s + silu * (1.0f - s)), dout * silu};
}
template <typename T>
__device__ __forceinline__ GateUp swiglu_gradient(float dout, float gate, float up) {
  return swiglu_gradient(dout, gate, up, sigmoid<T>(gate));
}

}  // namespace onggi::cuda

// Pointers to activations, whose dtype is a property of the run and not of the op.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "tensor/dtype.h"

namespace onggi {

// Activations in the memory of the device that computes: f32, or bf16 on a GPU with Precision::kFast. They
// convert from and to plain f32 pointers, which they always are on the CPU.
class ActivationView {
 public:
  constexpr ActivationView() = default;
  constexpr ActivationView(std::nullptr_t) {}                                      // NOLINT: implicit
  constexpr ActivationView(const float* data) : data(data), dtype(DType::kF32) {}  // NOLINT: implicit
  constexpr ActivationView(const void* data, DType dtype) : data(data), dtype(dtype) {}

  operator const float*() const {  // NOLINT: implicit
    ONGGI_CHECK(dtype == DType::kF32 || data == nullptr, "activations are f32 here");
    return static_cast<const float*>(data);
  }
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  ActivationView at(int64_t element) const {
    return {static_cast<const char*>(data) + element * (dtype == DType::kF32 ? 4 : 2), dtype};
  }
  bool is_null() const { return data == nullptr; }

  const void* data = nullptr;
  DType dtype = DType::kF32;  // kF32 or kBF16
};

class Activation {
 public:
  constexpr Activation() = default;
  constexpr Activation(std::nullptr_t) {}                                // NOLINT: implicit
  constexpr Activation(float* data) : data(data), dtype(DType::kF32) {}  // NOLINT: implicit
  constexpr Activation(void* data, DType dtype) : data(data), dtype(dtype) {}

  operator ActivationView() const { return {data, dtype}; }  // NOLINT: implicit
  operator float*() const {                                  // NOLINT: implicit
    ONGGI_CHECK(dtype == DType::kF32 || data == nullptr, "activations are f32 here");
    return static_cast<float*>(data);
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  Activation at(int64_t element) const {
    return {static_cast<char*>(data) + element * (dtype == DType::kF32 ? 4 : 2), dtype};
  }
  bool is_null() const { return data == nullptr; }

  void* data = nullptr;
  DType dtype = DType::kF32;  // kF32 or kBF16
};

}  // namespace onggi

// Activations and contexts for tests of CUDA kernels against the scalar oracle.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/ops/activation.h"
#include "kernels/ops/context.h"
#include "tensor/dtype.h"
#include "tests/kernels/harness.h"
#include "tests/kernels_cuda/device_array.h"

namespace onggi::testing_cuda {

using testing_ops::absolute;
using testing_ops::Floats;
using testing_ops::normal;

// Of the ops on the device; testing_ops::context() is that of the oracle.
inline const OpContext& device_context() {
  static testing_ops::Machine machine(1);
  static const OpContext context{machine.pool, machine.scratch, stream()};
  return context;
}

// The values that an activation of this dtype can hold: what the oracle must be given too.
inline Floats rounded(Floats values, DType dtype) {
  if (dtype == DType::kBF16)
    for (float& value : values) value = bf16_to_f32(f32_to_bf16(value));
  return values;
}

// The largest error of a value that is stored in this dtype.
inline double storage_unit(DType dtype) { return dtype == DType::kBF16 ? kUnitBf16 : 0; }

// Activations on the device between guards, `misalignment` elements beyond an address divisible by 256.
class ActivationArray {
 public:
  ActivationArray(const Floats& values, DType dtype, size_t misalignment = 0)
      : ActivationArray(values.size(), dtype, misalignment) {
    const std::vector<uint8_t> bytes = encode(values);
    stream().copy_in(data(), bytes.data(), bytes.size());
  }
  // Holds NaN.
  ActivationArray(size_t count, DType dtype, size_t misalignment = 0)
      : dtype_(dtype),
        count_(count),
        offset_(misalignment * element_bytes()),
        array_(count * element_bytes() + offset_) {}

  operator ActivationView() const { return {data(), dtype_}; }  // NOLINT: implicit
  operator Activation() const { return {data(), dtype_}; }      // NOLINT: implicit
  void* data() const { return array_.data() + offset_; }
  Floats values() const {
    const std::vector<uint8_t> all = array_.values();
    Floats values(count_);
    for (size_t i = 0; i < count_; ++i) {
      const uint8_t* bytes = all.data() + offset_ + i * element_bytes();
      if (dtype_ == DType::kF32) {
        std::memcpy(&values[i], bytes, sizeof values[i]);
      } else {
        uint16_t bits;
        std::memcpy(&bits, bytes, sizeof bits);
        values[i] = bf16_to_f32(bits);
      }
    }
    return values;
  }

 private:
  size_t element_bytes() const { return dtype_ == DType::kF32 ? 4 : 2; }
  std::vector<uint8_t> encode(const Floats& values) const {
    std::vector<uint8_t> bytes(values.size() * element_bytes());
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t bits = f32_to_bf16(values[i]);
      if (dtype_ == DType::kF32) {
        std::memcpy(bytes.data() + 4 * i, &values[i], 4);
      } else {
        std::memcpy(bytes.data() + 2 * i, &bits, 2);
      }
    }
    return bytes;
  }

  DType dtype_;
  size_t count_, offset_;
  DeviceArray<uint8_t> array_;
};

// Rows of `width` out of rows that are `stride` apart; what lies between must still be NaN.
inline Floats take_rows(const Floats& strided, size_t width, size_t stride) {
  Floats rows;
  for (size_t i = 0; i < strided.size(); ++i) {
    if (i % stride < width) {
      rows.push_back(strided[i]);
    } else {
      EXPECT_TRUE(std::isnan(strided[i])) << "wrote between rows, at " << i;
    }
  }
  return rows;
}

// The rows of a dense array `stride` apart, with NaN between them.
inline Floats spread_rows(const Floats& dense, size_t width, size_t stride) {
  Floats strided(dense.size() / width * stride, std::numeric_limits<float>::quiet_NaN());
  for (size_t i = 0; i < dense.size(); ++i) strided[i / width * stride + i % width] = dense[i];
  return strided;
}

// fp32 arithmetic of a dozen operations, relative to the value and to the size of its summands, and one
// rounding to the dtype in which it is stored.
inline auto allowed_error(const Floats& expected, double size, DType dtype) {
  return [&expected, size, dtype](size_t i) {
    const double exact = std::abs(double{expected[i]});
    return 16 * kUnitF32 * (exact + size) + storage_unit(dtype) * (exact + 16 * kUnitF32 * size);
  };
}

}  // namespace onggi::testing_cuda

#include "tensor/tensor.h"

#include <cstring>

#include "base/error.h"

namespace onggi {

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (int64_t dimension : shape) count *= dimension;
  return count;
}

std::string shape_text(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return out + "]";
}

void read_as_f32(const TensorView& tensor, int64_t begin, int64_t count, float* out) {
  ONGGI_CHECK(begin >= 0 && count >= 0 && begin + count <= tensor.elements());
  switch (tensor.dtype) {
    case DType::kF32:
      std::memcpy(out, static_cast<const float*>(tensor.data) + begin,
                  static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kF16: {
      const auto* from = static_cast<const uint16_t*>(tensor.data) + begin;
      for (int64_t i = 0; i < count; ++i) out[i] = f16_to_f32(from[i]);
      return;
    }
    case DType::kBF16: {
      const auto* from = static_cast<const uint16_t*>(tensor.data) + begin;
      for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(from[i]);
      return;
    }
    case DType::kF64: {
      const auto* from = static_cast<const double*>(tensor.data) + begin;
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(from[i]);
      return;
    }
    default:
      ONGGI_CHECK(false, std::string(dtype_name(tensor.dtype)));
  }
}

}  // namespace onggi

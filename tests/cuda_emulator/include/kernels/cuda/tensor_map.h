// Stands in for src/kernels/cuda/tensor_map.h, which says what the shape means.
#pragma once

#include <cstdint>

namespace onggi {

struct TensorShape {
  int64_t rows, heads, width;
  int box_rows;
};
struct TensorMap {
  const void* data;
  TensorShape shape;
};
inline TensorMap make_tensor_map(const void* data, const TensorShape& shape) { return {data, shape}; }

}  // namespace onggi

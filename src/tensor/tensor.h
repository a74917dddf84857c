// Shapes and views. Views never own; owners are device::Buffer, MappedFile and std::vector.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/dtype.h"

namespace onggi {

// Dimensions, outermost first (row-major: the last one is contiguous).
using Shape = std::vector<int64_t>;

// Product of the dimensions; 1 for a scalar.
int64_t element_count(const Shape& shape);
// "[8192, 512]".
std::string shape_text(const Shape& shape);

// A contiguous, row-major tensor in somebody else's memory.
struct TensorView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;

  int64_t elements() const { return element_count(shape); }
  int64_t bytes() const { return dtype_bytes(dtype, elements()); }
};

// Reads elements [begin, begin + count) of a plain f32, f16, bf16 or f64 tensor as f32 (other types:
// InternalError).
void read_as_f32(const TensorView& tensor, int64_t begin, int64_t count, float* out);

}  // namespace onggi

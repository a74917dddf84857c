// The numbers of GGUF: value types of the metadata and ggml's tensor types, each in one table.
#pragma once

#include <cstdint>
#include <string>

#include "formats/gguf.h"

namespace onggi {

inline constexpr uint32_t kGgufArrayType = 9;
// Alternatives of GgufValue come in the order of the format's type numbers: 12 scalars, then arrays of the
// same.
inline constexpr size_t kGgufScalarTypes = 12;

// The type number of the scalar (or of the elements of the array) at `index` in GgufValue; arrays have number
// 9, which the scalars skip.
constexpr uint32_t gguf_type_of_index(size_t index) {
  const auto scalar = static_cast<uint32_t>(index % kGgufScalarTypes);
  return scalar < kGgufArrayType ? scalar : scalar + 1;
}

// "q4_1" for a type that Onggi does not read, else its number; for errors.
std::string ggml_type_text(uint32_t type);

}  // namespace onggi

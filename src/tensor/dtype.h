// Element types of tensors, plain and block-quantised.
#pragma once

#include <cstdint>
#include <string_view>

namespace onggi {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kI8,
  kU8,
  kI16,
  kI32,
  kI64,
  kF64,
  kBool,
  kNF4,  // QLoRA's 4-bit NormalFloat; scales lie outside the data (blocks/nf4.h)
  kQ4_0,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
};
inline constexpr int kDTypeCount = 18;

struct DTypeInfo {
  std::string_view name;  // lower case: "f32", "bf16", "q4_k"
  int block_elements;     // elements per block; 1 for plain types
  int block_bytes;        // bytes per block (for kNF4: 32 bytes per 64 elements, scales not counted)
};
const DTypeInfo& dtype_info(DType dtype);
inline std::string_view dtype_name(DType dtype) { return dtype_info(dtype).name; }
inline bool is_quantized(DType dtype) { return dtype_info(dtype).block_elements > 1; }
// Bytes of `elements` elements; a quantised row must be a whole number of blocks (checked).
int64_t dtype_bytes(DType dtype, int64_t elements);

// Half-precision conversions, round to nearest even.
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);
inline float bf16_to_f32(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  __builtin_memcpy(&value, &wide, sizeof value);
  return value;
}
inline uint16_t f32_to_bf16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

}  // namespace onggi

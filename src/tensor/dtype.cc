#include "tensor/dtype.h"

#include <array>
#include <cstring>

#include "base/error.h"

namespace onggi {
namespace {

constexpr std::array<DTypeInfo, kDTypeCount> kInfo{{
    {"f32", 1, 4},
    {"f16", 1, 2},
    {"bf16", 1, 2},
    {"i8", 1, 1},
    {"u8", 1, 1},
    {"i16", 1, 2},
    {"i32", 1, 4},
    {"i64", 1, 8},
    {"f64", 1, 8},
    {"bool", 1, 1},
    {"nf4", 64, 32},
    {"q4_0", 32, 18},
    {"q8_0", 32, 34},
    {"q2_k", 256, 84},
    {"q3_k", 256, 110},
    {"q4_k", 256, 144},
    {"q5_k", 256, 176},
    {"q6_k", 256, 210},
}};

}  // namespace

const DTypeInfo& dtype_info(DType dtype) { return kInfo[static_cast<size_t>(dtype)]; }

int64_t dtype_bytes(DType dtype, int64_t elements) {
  const DTypeInfo& info = dtype_info(dtype);
  ONGGI_CHECK(elements >= 0 && elements % info.block_elements == 0, std::string(info.name));
  return elements / info.block_elements * info.block_bytes;
}

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1F;
  uint32_t mantissa = bits & 0x3FF;
  uint32_t wide;
  if (exponent == 0x1F) {
    wide = sign | 0x7F800000 | (mantissa << 13);
  } else if (exponent != 0) {
    wide = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else if (mantissa == 0) {
    wide = sign;
  } else {  // subnormal: normalise
    uint32_t shift = 0;
    while ((mantissa & 0x400) == 0) {
      mantissa <<= 1;
      ++shift;
    }
    wide = sign | ((113 - shift) << 23) | ((mantissa & 0x3FF) << 13);
  }
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

uint16_t f32_to_f16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7FFFFFFF;
  if (bits > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
  if (bits >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);  // rounds to infinity
  if (bits < 0x38800000) {                                              // subnormal or zero in f16
    if (bits < 0x33000000) return static_cast<uint16_t>(sign);
    const uint32_t exponent = bits >> 23;
    const uint32_t mantissa = (bits & 0x7FFFFF) | 0x800000;
    const uint32_t shift = 126 - exponent;
    const uint32_t rounded = mantissa >> shift;
    const uint32_t rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    return static_cast<uint16_t>(sign | (rounded + (rest > half || (rest == half && (rounded & 1)))));
  }
  const uint32_t rounded = bits + 0xFFF + ((bits >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}

}  // namespace onggi

#include "formats/gguf_types.h"

#include <algorithm>

namespace onggi {
namespace {

struct TypeNumber {
  DType dtype;
  uint32_t ggml;
};

constexpr TypeNumber kTypes[] = {
    {DType::kF32, 0},   {DType::kF16, 1},   {DType::kQ4_0, 2},  {DType::kQ8_0, 8},  {DType::kQ2_K, 10},
    {DType::kQ3_K, 11}, {DType::kQ4_K, 12}, {DType::kQ5_K, 13}, {DType::kQ6_K, 14}, {DType::kI8, 24},
    {DType::kI16, 25},  {DType::kI32, 26},  {DType::kI64, 27},  {DType::kF64, 28},  {DType::kBF16, 30},
};

// Types that exist but that Onggi does not read, so that an error can name them.
constexpr std::pair<uint32_t, const char*> kUnsupported[] = {
    {3, "q4_1"},    {6, "q5_0"},     {7, "q5_1"},   {9, "q8_1"},    {15, "q8_k"},  {16, "iq2_xxs"},
    {17, "iq2_xs"}, {18, "iq3_xxs"}, {19, "iq1_s"}, {20, "iq4_nl"}, {21, "iq3_s"}, {22, "iq2_s"},
    {23, "iq4_xs"}, {29, "iq1_m"},   {34, "tq1_0"}, {35, "tq2_0"},  {39, "mxfp4"},
};

}  // namespace

std::optional<uint32_t> ggml_type(DType dtype) {
  for (const TypeNumber& type : kTypes)
    if (type.dtype == dtype) return type.ggml;
  return std::nullopt;
}

std::optional<DType> dtype_of_ggml_type(uint32_t type) {
  for (const TypeNumber& known : kTypes)
    if (known.ggml == type) return known.dtype;
  return std::nullopt;
}

std::string ggml_type_text(uint32_t type) {
  for (const auto& [number, name] : kUnsupported)
    if (number == type) return name;
  return std::to_string(type);
}

}  // namespace onggi

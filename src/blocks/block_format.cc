#include "blocks/block_format.h"

#include <array>
#include <cstring>
#include <string>

#include "base/error.h"
#include "blocks/encode.h"
#include "blocks/multi_target.h"

namespace onggi {
namespace {

template <typename Block>
void encode(const float* values, int64_t elements, const float* importance, void* blocks) {
  ONGGI_CHECK(elements % Block::kElements == 0);
  encode_row(values, elements, importance, static_cast<Block*>(blocks));
}

template <typename Block>
ONGGI_ALWAYS_INLINE void decode_row(const void* blocks, int64_t elements, float* out) {
  const Block* block = static_cast<const Block*>(blocks);
  for (int64_t i = 0; i < elements / Block::kElements; ++i)
    decode_block(block[i], out + i * Block::kElements);
}

// One function per format, since a template cannot be multi-versioned.
ONGGI_TARGET_CLONES void decode_q4_0(const void* blocks, int64_t n, float* out) {
  decode_row<BlockQ4_0>(blocks, n, out);
}
ONGGI_TARGET_CLONES void decode_q8_0(const void* blocks, int64_t n, float* out) {
  decode_row<BlockQ8_0>(blocks, n, out);
}
ONGGI_TARGET_CLONES void decode_q2_k(const void* blocks, int64_t n, float* out) {
  decode_row<BlockQ2K>(blocks, n, out);
}
ONGGI_TARGET_CLONES void decode_q3_k(const void* blocks, int64_t n, float* out) {
  decode_row<BlockQ3K>(blocks, n, out);
}
ONGGI_TARGET_CLONES void decode_q4_k(const void* blocks, int64_t n, float* out) {
  decode_row<BlockQ4K>(blocks, n, out);
}
ONGGI_TARGET_CLONES void decode_q5_k(const void* blocks, int64_t n, float* out) {
  decode_row<BlockQ5K>(blocks, n, out);
}
ONGGI_TARGET_CLONES void decode_q6_k(const void* blocks, int64_t n, float* out) {
  decode_row<BlockQ6K>(blocks, n, out);
}

void decode_f32(const void* values, int64_t elements, float* out) {
  std::memcpy(out, values, static_cast<size_t>(elements) * sizeof(float));
}
void encode_f32(const float* values, int64_t elements, const float*, void* out) {
  std::memcpy(out, values, static_cast<size_t>(elements) * sizeof(float));
}
void decode_f16(const void* values, int64_t elements, float* out) {
  const auto* half = static_cast<const uint16_t*>(values);
  for (int64_t i = 0; i < elements; ++i) out[i] = f16_to_f32(half[i]);
}
void encode_f16(const float* values, int64_t elements, const float*, void* out) {
  auto* half = static_cast<uint16_t*>(out);
  for (int64_t i = 0; i < elements; ++i) half[i] = f32_to_f16(values[i]);
}
void decode_bf16(const void* values, int64_t elements, float* out) {
  const auto* half = static_cast<const uint16_t*>(values);
  for (int64_t i = 0; i < elements; ++i) out[i] = bf16_to_f32(half[i]);
}
void encode_bf16(const float* values, int64_t elements, const float*, void* out) {
  auto* half = static_cast<uint16_t*>(out);
  for (int64_t i = 0; i < elements; ++i) half[i] = f32_to_bf16(values[i]);
}

constexpr std::array<BlockFormat, 10> kFormats{{
    {DType::kF32, decode_f32, encode_f32},
    {DType::kF16, decode_f16, encode_f16},
    {DType::kBF16, decode_bf16, encode_bf16},
    {DType::kQ4_0, decode_q4_0, encode<BlockQ4_0>},
    {DType::kQ8_0, decode_q8_0, encode<BlockQ8_0>},
    {DType::kQ2_K, decode_q2_k, encode<BlockQ2K>},
    {DType::kQ3_K, decode_q3_k, encode<BlockQ3K>},
    {DType::kQ4_K, decode_q4_k, encode<BlockQ4K>},
    {DType::kQ5_K, decode_q5_k, encode<BlockQ5K>},
    {DType::kQ6_K, decode_q6_k, encode<BlockQ6K>},
}};

const BlockFormat* find_format(DType dtype) {
  for (const BlockFormat& format : kFormats) {
    if (format.dtype == dtype) return &format;
  }
  return nullptr;
}

}  // namespace

const BlockFormat& block_format(DType dtype) {
  const BlockFormat* format = find_format(dtype);
  ONGGI_CHECK(format != nullptr, std::string(dtype_name(dtype)));
  return *format;
}

bool has_block_format(DType dtype) { return find_format(dtype) != nullptr; }

}  // namespace onggi

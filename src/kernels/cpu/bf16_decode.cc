#include "kernels/cpu/bf16_decode.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstddef>

#include "base/error.h"
#include "blocks/nf4.h"
#include "blocks/q2_k.h"
#include "blocks/q3_k.h"
#include "blocks/q4_0.h"
#include "blocks/q4_k.h"
#include "blocks/q5_k.h"
#include "blocks/q6_k.h"
#include "blocks/q8_0.h"
#include "kernels/cpu/bf16_product.h"
#include "kernels/cpu/features.h"

namespace onggi::cpu {
namespace {

// Formats of at most five bits are decoded by table: all values that the indices of a sub-block can mean are
// computed once, rounded to bf16, and vpermw looks 32 of them up at a time.

// 16 values, twice.
ONGGI_AVX512_BF16 inline __m512i table16(__m512 values) {
  return (__m512i)_mm512_cvtne2ps_pbh(values, values);
}

ONGGI_AVX512_BF16 inline __m512 iota() {
  return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// scale * q - minimum with two roundings, as the formats define it (this folder is built without
// contraction).
ONGGI_AVX512_BF16 inline __m512 affine(__m512 q, float scale, float minimum) {
  return _mm512_sub_ps(_mm512_mul_ps(q, _mm512_set1_ps(scale)), _mm512_set1_ps(minimum));
}

ONGGI_AVX512_BF16 inline __m512i words_of_bytes(const uint8_t* bytes) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
}

ONGGI_AVX512_BF16 inline void store_words(uint16_t* out, __m512i words) { _mm512_storeu_si512(out, words); }

ONGGI_AVX512_BF16 inline float half(uint16_t bits) { return _cvtsh_ss(bits); }

ONGGI_AVX512_BF16 void decode(const BlockQ4K& block, uint16_t* out) {
  const float d = half(block.d), dmin = half(block.dmin);
  const __m512i nibble = _mm512_set1_epi16(15);
  for (int j = 0; j < 4; ++j) {
    const ScaleMin low = q4k_scale_min(block.scales, 2 * j), high = q4k_scale_min(block.scales, 2 * j + 1);
    const __m512i low_table = table16(affine(iota(), d * low.scale, dmin * low.minimum));
    const __m512i high_table = table16(affine(iota(), d * high.scale, dmin * high.minimum));
    const __m512i q = words_of_bytes(block.qs + 32 * j);
    store_words(out + 64 * j, _mm512_permutexvar_epi16(_mm512_and_si512(q, nibble), low_table));
    store_words(out + 64 * j + 32, _mm512_permutexvar_epi16(_mm512_srli_epi16(q, 4), high_table));
  }
}

ONGGI_AVX512_BF16 void decode(const BlockQ5K& block, uint16_t* out) {
  const float d = half(block.d), dmin = half(block.dmin);
  const __m512 sixteen = _mm512_set1_ps(16.0f);
  const __m512i nibble = _mm512_set1_epi16(15), fifth = _mm512_set1_epi16(16);
  const __m512i high_bits = words_of_bytes(block.qh);
  for (int sub = 0; sub < 8; ++sub) {
    const ScaleMin packed = q4k_scale_min(block.scales, sub);
    const float scale = d * packed.scale, minimum = dmin * packed.minimum;
    const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(affine(_mm512_add_ps(iota(), sixteen), scale, minimum),
                                                       affine(iota(), scale, minimum));
    const __m512i q = words_of_bytes(block.qs + 32 * (sub / 2));
    const __m512i low = _mm512_and_si512(_mm512_srl_epi16(q, _mm_cvtsi32_si128(4 * (sub % 2))), nibble);
    const __m512i bit =
        _mm512_and_si512(_mm512_slli_epi16(_mm512_srl_epi16(high_bits, _mm_cvtsi32_si128(sub)), 4), fifth);
    store_words(out + 32 * sub, _mm512_permutexvar_epi16(_mm512_or_si512(low, bit), table));
  }
}

// Two sub-blocks of 16 share the vector of 32 values: the second one's table is in the upper 16 words.
ONGGI_AVX512_BF16 inline __m512i second_half_offset() {
  return _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
}

ONGGI_AVX512_BF16 void decode(const BlockQ2K& block, uint16_t* out) {
  const float d = half(block.d), dmin = half(block.dmin);
  const __m512i two_bits = _mm512_set1_epi16(3), offset = second_half_offset();
  for (int pair = 0; pair < 8; ++pair) {
    const uint8_t first = block.scales[2 * pair], second = block.scales[2 * pair + 1];
    const __m512i table =
        (__m512i)_mm512_cvtne2ps_pbh(affine(iota(), d * (second & 15), dmin * (second >> 4)),
                                     affine(iota(), d * (first & 15), dmin * (first >> 4)));
    const __m512i q = words_of_bytes(block.qs + 32 * (pair / 4));
    const __m512i index = _mm512_and_si512(_mm512_srl_epi16(q, _mm_cvtsi32_si128(2 * (pair % 4))), two_bits);
    store_words(out + 32 * pair, _mm512_permutexvar_epi16(_mm512_or_si512(index, offset), table));
  }
}

ONGGI_AVX512_BF16 void decode(const BlockQ3K& block, uint16_t* out) {
  const float d = half(block.d);
  const __m512 values = _mm512_sub_ps(iota(), _mm512_set1_ps(4.0f));
  const __m512i two_bits = _mm512_set1_epi16(3), third = _mm512_set1_epi16(4), offset = second_half_offset();
  const __m512i high_bits = words_of_bytes(block.hmask);
  for (int pair = 0; pair < 8; ++pair) {
    const float first = d * q3k_scale(block.scales, 2 * pair);
    const float second = d * q3k_scale(block.scales, 2 * pair + 1);
    const __m512i table = (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(values, _mm512_set1_ps(second)),
                                                       _mm512_mul_ps(values, _mm512_set1_ps(first)));
    const __m512i q = words_of_bytes(block.qs + 32 * (pair / 4));
    const __m512i low = _mm512_and_si512(_mm512_srl_epi16(q, _mm_cvtsi32_si128(2 * (pair % 4))), two_bits);
    const __m512i bit =
        _mm512_and_si512(_mm512_slli_epi16(_mm512_srl_epi16(high_bits, _mm_cvtsi32_si128(pair)), 2), third);
    const __m512i index = _mm512_or_si512(_mm512_or_si512(low, bit), offset);
    store_words(out + 32 * pair, _mm512_permutexvar_epi16(index, table));
  }
}

// 32 signed bytes in words, times one scale for each half of 16.
ONGGI_AVX512_BF16 inline void store_scaled(__m512i words, float first, float second, uint16_t* out) {
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(words)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(words, 1)));
  store_words(out, (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, _mm512_set1_ps(second)),
                                                _mm512_mul_ps(low, _mm512_set1_ps(first))));
}

ONGGI_AVX512_BF16 void decode(const BlockQ6K& block, uint16_t* out) {
  const float d = half(block.d);
  const __m512i nibble = _mm512_set1_epi16(15), high_mask = _mm512_set1_epi16(48),
                center = _mm512_set1_epi16(32);
  for (int pair = 0; pair < 8; ++pair) {
    const int part = pair / 4, j = pair % 4;
    const __m512i low = words_of_bytes(block.ql + 64 * part + 32 * (j % 2));
    const __m512i high = words_of_bytes(block.qh + 32 * part);
    const __m512i low_bits = _mm512_and_si512(_mm512_srl_epi16(low, _mm_cvtsi32_si128(4 * (j / 2))), nibble);
    const __m512i high_bits =
        _mm512_and_si512(_mm512_slli_epi16(_mm512_srl_epi16(high, _mm_cvtsi32_si128(2 * j)), 4), high_mask);
    store_scaled(_mm512_sub_epi16(_mm512_or_si512(low_bits, high_bits), center), d * block.scales[2 * pair],
                 d * block.scales[2 * pair + 1], out + 32 * pair);
  }
}

ONGGI_AVX512_BF16 void decode(const BlockQ8_0& block, uint16_t* out) {
  const float d = half(block.d);
  store_scaled(_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block.qs))), d, d,
               out);
}

ONGGI_AVX512_BF16 void decode(const BlockQ4_0& block, uint16_t* out) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block.qs));
  const __m256i words = _mm256_cvtepu8_epi16(bytes);
  const __m512i index = _mm512_inserti64x4(
      _mm512_castsi256_si512(_mm256_and_si256(words, _mm256_set1_epi16(15))), _mm256_srli_epi16(words, 4), 1);
  const __m512 values = _mm512_sub_ps(iota(), _mm512_set1_ps(8.0f));
  store_words(out,
              _mm512_permutexvar_epi16(index, table16(_mm512_mul_ps(values, _mm512_set1_ps(half(block.d))))));
}

template <typename Block>
void decode_blocks(const std::byte* data, int64_t count, uint16_t* out) {
  const auto* block = reinterpret_cast<const Block*>(data);
  for (int64_t i = 0; i < count; i += Block::kElements) decode(*block++, out + i);
}

// A block of 64 indices: byte i holds element 2i in its high nibble and 2i + 1 in its low one.
ONGGI_AVX512_BF16 void decode_nf4_row(const WeightView& weight, int64_t begin, int64_t count, uint16_t* out) {
  const auto& codes = dynamic_code();
  const __m512 code = _mm512_loadu_ps(kNf4Code.data());
  const __m512i low_nibble = _mm512_set1_epi32(0x000F0000);
  const uint8_t* packed = static_cast<const uint8_t*>(weight.data) + begin / 2;
  for (int64_t i = 0; i < count; i += kNf4BlockElements) {
    const int64_t block = (begin + i) / kNf4BlockElements;
    const float absmax =
        codes[weight.nf4_absmax[block]] * weight.nf4_nested_absmax[block / kNf4NestedBlocks] +
        weight.nf4_offset;
    const __m512i table = table16(_mm512_mul_ps(code, _mm512_set1_ps(absmax)));
    for (int part = 0; part < 2; ++part) {
      const __m512i bytes =
          _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(packed + i / 2 + 16 * part)));
      const __m512i index = _mm512_or_si512(_mm512_srli_epi32(bytes, 4),
                                            _mm512_and_si512(_mm512_slli_epi32(bytes, 16), low_nibble));
      store_words(out + i + 32 * part, _mm512_permutexvar_epi16(index, table));
    }
  }
}

ONGGI_AVX512_BF16 void decode_f16_row(const uint16_t* in, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const auto mask = static_cast<__mmask16>(count - i >= 16 ? 0xFFFF : (1u << (count - i)) - 1);
    const __m512 values = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, in + i));
    _mm256_mask_storeu_epi16(out + i, mask, (__m256i)_mm512_cvtneps_pbh(values));
  }
}

}  // namespace

void decode_bf16(const WeightView& weight, int64_t row, int64_t column, int64_t count, uint16_t* out) {
  if (weight.dtype == DType::kNF4) return decode_nf4_row(weight, row * weight.columns + column, count, out);
  const DTypeInfo& info = dtype_info(weight.dtype);
  const auto* data = static_cast<const std::byte*>(weight.data) +
                     (row * weight.columns + column) / info.block_elements * info.block_bytes;
  switch (weight.dtype) {
    case DType::kF32:
      return round_to_bf16(reinterpret_cast<const float*>(data), count, out);
    case DType::kF16:
      return decode_f16_row(reinterpret_cast<const uint16_t*>(data), count, out);
    case DType::kBF16:
      std::copy_n(reinterpret_cast<const uint16_t*>(data), count, out);
      return;
    case DType::kQ4_0:
      return decode_blocks<BlockQ4_0>(data, count, out);
    case DType::kQ8_0:
      return decode_blocks<BlockQ8_0>(data, count, out);
    case DType::kQ2_K:
      return decode_blocks<BlockQ2K>(data, count, out);
    case DType::kQ3_K:
      return decode_blocks<BlockQ3K>(data, count, out);
    case DType::kQ4_K:
      return decode_blocks<BlockQ4K>(data, count, out);
    case DType::kQ5_K:
      return decode_blocks<BlockQ5K>(data, count, out);
    case DType::kQ6_K:
      return decode_blocks<BlockQ6K>(data, count, out);
    default:
      ONGGI_CHECK(false, "not a weight dtype");
  }
}

}  // namespace onggi::cpu

// How AVX-512 registers are filled from blocks: for each format a struct with
//   kSub          values per scale, 16 or 32
//   kOffset       the middle value of a format without minimums, else 0
//   Super         256 values as they lie in memory
//   piece<I>()    values 64I .. 64I + 63 as unsigned bytes, in order
//   scales()      16 f32 scales, one per 16 values (equal in pairs where kSub is 32)
//   minimums()    likewise; only where kOffset is 0
// Include only where the CPU has been asked (DotLevel::kAvx512Vnni).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "blocks/q2_k.h"
#include "blocks/q3_k.h"
#include "blocks/q4_0.h"
#include "blocks/q4_k.h"
#include "blocks/q5_k.h"
#include "blocks/q6_k.h"
#include "blocks/q8_0.h"
#include "kernels/cpu/quantized_dot_kernels.h"

// Attributes rather than compiler flags per file, so that no inline function of a header is built for a
// processor we do not have. Function attributes do not reach into lambdas: the kernels have none.
#define ONGGI_AVX512_VNNI \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c,fma")))
#define ONGGI_AVX512_VNNI_INLINE ONGGI_AVX512_VNNI __attribute__((always_inline)) inline

namespace onggi::cpu::avx512 {

// 32 bytes in both halves, the upper half's 16-bit words shifted further than the lower half's.
template <int kLow, int kHigh>
ONGGI_AVX512_VNNI_INLINE __m512i both_shifted_right(const uint8_t* bytes) {
  const __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
  const __m512i shifts = _mm512_inserti64x4(_mm512_set1_epi16(kLow), _mm256_set1_epi16(kHigh), 1);
  return _mm512_srlv_epi16(both, shifts);
}

// A bit of 32 bytes: bit kLow for the lower 32 values, kLow + 1 for the upper 32.
template <int kLow>
ONGGI_AVX512_VNNI_INLINE __mmask64 bit_pair(const uint8_t* bytes) {
  const __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
  const __m512i bits = _mm512_inserti64x4(_mm512_set1_epi8(static_cast<char>(1 << kLow)),
                                          _mm256_set1_epi8(static_cast<char>(2 << kLow)), 1);
  return _mm512_test_epi8_mask(both, bits);
}

ONGGI_AVX512_VNNI_INLINE uint32_t word(const uint8_t* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

ONGGI_AVX512_VNNI_INLINE __m512 broadcast_f16(uint16_t bits) {
  return _mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(bits)));
}

ONGGI_AVX512_VNNI_INLINE __m512 from_i8(__m128i bytes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
ONGGI_AVX512_VNNI_INLINE __m512 from_u8(__m128i bytes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}

// The f16 scales of eight blocks of 32 values, each twice.
template <typename Block>
ONGGI_AVX512_VNNI_INLINE __m512 block_scales(const Block* b) {
  const __m128i halves =
      _mm_set_epi16(static_cast<int16_t>(b[7].d), static_cast<int16_t>(b[6].d), static_cast<int16_t>(b[5].d),
                    static_cast<int16_t>(b[4].d), static_cast<int16_t>(b[3].d), static_cast<int16_t>(b[2].d),
                    static_cast<int16_t>(b[1].d), static_cast<int16_t>(b[0].d));
  const __m256i twice = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(halves, halves)),
                                                _mm_unpackhi_epi16(halves, halves), 1);
  return _mm512_cvtph_ps(twice);
}

struct Q8_0 {
  static constexpr int kSub = 32, kOffset = 128;
  using Block = BlockQ8_0;
  struct Super {
    Block blocks[8];
  };
  template <int I>
  ONGGI_AVX512_VNNI_INLINE static __m512i piece(const Super& super) {
    const auto* low = reinterpret_cast<const __m256i*>(super.blocks[2 * I].qs);
    const auto* high = reinterpret_cast<const __m256i*>(super.blocks[2 * I + 1].qs);
    const __m512i both =
        _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(low)), _mm256_loadu_si256(high), 1);
    return _mm512_xor_si512(both, _mm512_set1_epi8(static_cast<char>(0x80)));
  }
  ONGGI_AVX512_VNNI_INLINE static __m512 scales(const Super& super) { return block_scales(super.blocks); }
};

struct Q4_0 {
  static constexpr int kSub = 32, kOffset = 8;
  using Block = BlockQ4_0;
  struct Super {
    Block blocks[8];
  };
  template <int I>
  ONGGI_AVX512_VNNI_INLINE static __m512i piece(const Super& super) {
    const auto* low = reinterpret_cast<const __m128i*>(super.blocks[2 * I].qs);
    const auto* high = reinterpret_cast<const __m128i*>(super.blocks[2 * I + 1].qs);
    const __m512i bytes = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(_mm_loadu_si128(low)), 0xFF00,
                                                      _mm_loadu_si128(high));
    const __m512i shifts =
        _mm512_broadcast_i64x4(_mm256_inserti128_si256(_mm256_setzero_si256(), _mm_set1_epi16(4), 1));
    return _mm512_and_si512(_mm512_srlv_epi16(bytes, shifts), _mm512_set1_epi8(15));
  }
  ONGGI_AVX512_VNNI_INLINE static __m512 scales(const Super& super) { return block_scales(super.blocks); }
};

struct Q2K {
  static constexpr int kSub = 16, kOffset = 0;
  using Super = BlockQ2K;
  template <int I>
  ONGGI_AVX512_VNNI_INLINE static __m512i piece(const Super& super) {
    constexpr int kShift = 4 * (I % 2);
    return _mm512_and_si512(both_shifted_right<kShift, kShift + 2>(super.qs + 32 * (I / 2)),
                            _mm512_set1_epi8(3));
  }
  ONGGI_AVX512_VNNI_INLINE static __m128i packed(const Super& super) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(super.scales));
  }
  ONGGI_AVX512_VNNI_INLINE static __m512 scales(const Super& super) {
    return _mm512_mul_ps(broadcast_f16(super.d), from_u8(_mm_and_si128(packed(super), _mm_set1_epi8(15))));
  }
  ONGGI_AVX512_VNNI_INLINE static __m512 minimums(const Super& super) {
    const __m128i high = _mm_and_si128(_mm_srli_epi16(packed(super), 4), _mm_set1_epi8(15));
    return _mm512_mul_ps(broadcast_f16(super.dmin), from_u8(high));
  }
};

struct Q3K {
  static constexpr int kSub = 16, kOffset = 4;
  using Super = BlockQ3K;
  template <int I>
  ONGGI_AVX512_VNNI_INLINE static __m512i piece(const Super& super) {
    constexpr int kShift = 4 * (I % 2);
    const __m512i low = _mm512_and_si512(both_shifted_right<kShift, kShift + 2>(super.qs + 32 * (I / 2)),
                                         _mm512_set1_epi8(3));
    return _mm512_mask_add_epi8(low, bit_pair<2 * I>(super.hmask), low, _mm512_set1_epi8(4));
  }
  // See q3k_scale: four scales per 32-bit word.
  ONGGI_AVX512_VNNI_INLINE static __m512 scales(const Super& super) {
    const uint32_t first = word(super.scales), second = word(super.scales + 4), high = word(super.scales + 8);
    const uint32_t k4 = 0x0F0F0F0F, k2 = 0x03030303;
    const __m128i six_bits = _mm_set_epi32(static_cast<int>(((second >> 4) & k4) | ((high >> 6) & k2) << 4),
                                           static_cast<int>(((first >> 4) & k4) | ((high >> 4) & k2) << 4),
                                           static_cast<int>((second & k4) | ((high >> 2) & k2) << 4),
                                           static_cast<int>((first & k4) | (high & k2) << 4));
    return _mm512_mul_ps(broadcast_f16(super.d), from_i8(_mm_sub_epi8(six_bits, _mm_set1_epi8(32))));
  }
};

// The 12 bytes of Q4_K's and Q5_K's scales and minimums (see q4k_scale_min) as bytes, each twice: 16 scales
// in the lower half, 16 minimums in the upper. Both bytes of a 16-bit word belong to the same sub-block, so
// words are shifted. `header`: d, dmin and the 12 bytes, in both halves.
ONGGI_AVX512_VNNI_INLINE __m256i six_bit_pairs(__m256i header) {
  const __m256i low_bytes = _mm256_setr_epi8(4, 4, 5, 5, 6, 6, 7, 7, 12, 12, 13, 13, 14, 14, 15, 15,  //
                                             8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15);
  const __m256i high_bytes = _mm256_setr_epi8(-1, -1, -1, -1, -1, -1, -1, -1, 4, 4, 5, 5, 6, 6, 7, 7,  //
                                              -1, -1, -1, -1, -1, -1, -1, -1, 8, 8, 9, 9, 10, 10, 11, 11);
  const __m256i shifts = _mm256_setr_epi16(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4);
  const __m256i masks =
      _mm256_setr_epi64x(0x3F3F3F3F3F3F3F3F, 0x0F0F0F0F0F0F0F0F, 0x3F3F3F3F3F3F3F3F, 0x0F0F0F0F0F0F0F0F);
  const __m256i low = _mm256_srlv_epi16(_mm256_shuffle_epi8(header, low_bytes), shifts);
  const __m256i high = _mm256_srli_epi16(_mm256_shuffle_epi8(header, high_bytes), 2);
  return _mm256_or_si256(_mm256_and_si256(low, masks), _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
}

template <typename Block>
struct Q4KScales {
  ONGGI_AVX512_VNNI_INLINE static __m256i pairs(const Block& super) {
    static_assert(offsetof(Block, scales) == 4);
    const auto* header = reinterpret_cast<const __m128i*>(&super);
    return six_bit_pairs(_mm256_broadcastsi128_si256(_mm_loadu_si128(header)));
  }
  ONGGI_AVX512_VNNI_INLINE static __m512 scales(const Block& super) {
    return _mm512_mul_ps(broadcast_f16(super.d), from_u8(_mm256_castsi256_si128(pairs(super))));
  }
  ONGGI_AVX512_VNNI_INLINE static __m512 minimums(const Block& super) {
    return _mm512_mul_ps(broadcast_f16(super.dmin), from_u8(_mm256_extracti128_si256(pairs(super), 1)));
  }
};

struct Q4K : Q4KScales<BlockQ4K> {
  static constexpr int kSub = 32, kOffset = 0;
  using Super = BlockQ4K;
  template <int I>
  ONGGI_AVX512_VNNI_INLINE static __m512i piece(const Super& super) {
    return _mm512_and_si512(both_shifted_right<0, 4>(super.qs + 32 * I), _mm512_set1_epi8(15));
  }
};

struct Q5K : Q4KScales<BlockQ5K> {
  static constexpr int kSub = 32, kOffset = 0;
  using Super = BlockQ5K;
  template <int I>
  ONGGI_AVX512_VNNI_INLINE static __m512i piece(const Super& super) {
    const __m512i low = _mm512_and_si512(both_shifted_right<0, 4>(super.qs + 32 * I), _mm512_set1_epi8(15));
    return _mm512_mask_add_epi8(low, bit_pair<2 * I>(super.qh), low, _mm512_set1_epi8(16));
  }
};

struct Q6K {
  static constexpr int kSub = 16, kOffset = 32;
  using Super = BlockQ6K;
  template <int I>
  ONGGI_AVX512_VNNI_INLINE static __m512i piece(const Super& super) {
    const __m512i nibbles = _mm512_loadu_si512(super.ql + 64 * (I / 2));
    const uint8_t* qh = super.qh + 32 * (I / 2);
    // The two high bits, moved to bits 4 and 5.
    const __m512i fours = _mm512_set1_epi8(15);
    if constexpr (I % 2 == 0) {
      const __m512i both = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(qh)));
      const __m512i shifts = _mm512_inserti64x4(_mm512_set1_epi16(4), _mm256_set1_epi16(2), 1);
      const __m512i high = _mm512_and_si512(_mm512_sllv_epi16(both, shifts), _mm512_set1_epi8(0x30));
      return _mm512_or_si512(_mm512_and_si512(nibbles, fours), high);
    } else {
      const __m512i high = _mm512_and_si512(both_shifted_right<0, 2>(qh), _mm512_set1_epi8(0x30));
      return _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(nibbles, 4), fours), high);
    }
  }
  ONGGI_AVX512_VNNI_INLINE static __m512 scales(const Super& super) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(super.scales));
    return _mm512_mul_ps(broadcast_f16(super.d), from_i8(bytes));
  }
};

}  // namespace onggi::cpu::avx512

#include "kernels/cpu/bf16_product.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <utility>

#include "kernels/cpu/features.h"

namespace onggi::cpu {
namespace {

// The pair at a dword address, which need not be aligned (bf16 weights of a mapped file).
ONGGI_AVX512_BF16 inline __m512bh broadcast_pair(const char* address) {
  int32_t pair;
  __builtin_memcpy(&pair, address, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}

// kRows x (16 kVectors) accumulators in registers; `mask` covers the columns of the last vector.
template <int kRows, int kVectors>
ONGGI_AVX512_BF16 void product_tile(const ProductArgs& args, const char* a, float* c, __mmask16 mask) {
  const int64_t a_row = args.a_row * 4, a_pair = args.a_pair * 4;
  __m512 sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v)
      sum[r][v] = args.accumulate
                      ? _mm512_maskz_loadu_ps(v == kVectors - 1 ? mask : 0xFFFF, c + r * args.c_row + 16 * v)
                      : _mm512_setzero_ps();
  const char* b = static_cast<const char*>(args.panel);
  for (int64_t p = 0; p < args.pairs; ++p) {
    __m512bh column[kVectors];
    for (int v = 0; v < kVectors; ++v) column[v] = (__m512bh)_mm512_loadu_si512(b + 64 * v);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const __m512bh row = broadcast_pair(a + r * a_row);
      for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], row, column[v]);
    }
    a += a_pair;
    b += 4 * kPanelLanes;
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v)
      _mm512_mask_storeu_ps(c + r * args.c_row + 16 * v, v == kVectors - 1 ? mask : 0xFFFF, sum[r][v]);
}

using TileFunction = void (*)(const ProductArgs&, const char*, float*, __mmask16);

template <int kVectors, size_t... kIndex>
constexpr std::array<TileFunction, kProductRows> tile_functions(std::index_sequence<kIndex...>) {
  return {product_tile<static_cast<int>(kIndex) + 1, kVectors>...};
}
// Entry r - 1 computes r rows.
constexpr auto kNarrowTiles = tile_functions<1>(std::make_index_sequence<kProductRows>{});
constexpr auto kWideTiles = tile_functions<2>(std::make_index_sequence<kProductRows>{});

// Transposes 16 x 16 dwords in registers.
ONGGI_AVX512_BF16 inline void transpose16(__m512i row[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(row[2 * i], row[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(row[2 * i], row[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    row[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    row[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    row[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    row[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(row[i], row[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(row[i], row[4 + i], 0xDD);
    t[8 + i] = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(row[8 + i], row[12 + i], 0xDD);
  }
  for (int i = 0; i < 4; ++i) {
    row[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    row[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    row[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xDD);
    row[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xDD);
  }
}

ONGGI_AVX512_BF16 inline __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? 0xFFFF : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Values [0, count) of x, at most 32, as 16 pairs of bf16.
ONGGI_AVX512_BF16 inline __m512i load_pairs(const float* x, int64_t count) {
  const __m512 low = _mm512_maskz_loadu_ps(first_lanes(count), x);
  const __m512 high =
      count > 16 ? _mm512_maskz_loadu_ps(first_lanes(count - 16), x + 16) : _mm512_setzero_ps();
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// Dwords of the interleaving of two vectors of 32 words: lanes 0 .. 15 and 16 .. 31.
ONGGI_AVX512_BF16 inline void store_interleaved(__m512i first, __m512i second, int64_t count, uint32_t* out) {
  const __m512i low_first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(first));
  const __m512i low_second = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(second));
  const __m512i high_first = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(first, 1));
  const __m512i high_second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(second, 1));
  _mm512_storeu_si512(out, _mm512_or_si512(low_first, _mm512_slli_epi32(low_second, 16)));
  if (count > 16)
    _mm512_storeu_si512(out + 16, _mm512_or_si512(high_first, _mm512_slli_epi32(high_second, 16)));
}

ONGGI_AVX512_BF16 inline __m512i load_words(const uint16_t* x, int64_t count) {
  return _mm512_maskz_loadu_epi16(count >= 32 ? 0xFFFFFFFFu : (1u << count) - 1, x);
}

}  // namespace

void product_panel(const ProductArgs& args) {
  const bool wide = args.columns > 16;
  const int64_t last = wide ? args.columns - 16 : args.columns;
  const auto mask = static_cast<__mmask16>((1u << last) - 1);
  const auto& tiles = wide ? kWideTiles : kNarrowTiles;
  const char* a = static_cast<const char*>(args.a);
  for (int64_t row = 0; row < args.rows; row += kProductRows) {
    const int64_t rows = std::min<int64_t>(kProductRows, args.rows - row);
    tiles[static_cast<size_t>(rows - 1)](args, a + row * args.a_row * 4, args.c + row * args.c_row, mask);
  }
}

ONGGI_AVX512_BF16 void pack_rows(const PackRowsArgs& args) {
  const int64_t pairs = (args.k + 1) / 2;
  for (int64_t panel = args.panel_begin; panel < args.panel_end; ++panel) {
    uint32_t* out = args.panels + panel * kPanelLanes * pairs;
    const int64_t first = panel * kPanelLanes;
    const int lanes = args.columns - first <= 16 ? 16 : kPanelLanes;
    for (int half = 0; half < lanes; half += 16)
      for (int64_t k = 0; k < args.k; k += 32) {
        __m512i block[16];
        for (int64_t i = 0; i < 16; ++i) {
          const int64_t column = first + half + i;
          block[i] = column < args.columns ? load_pairs(args.x + column * args.x_row + k, args.k - k)
                                           : _mm512_setzero_si512();
        }
        transpose16(block);
        const int64_t count = std::min<int64_t>(16, pairs - k / 2);
        for (int64_t i = 0; i < count; ++i)
          _mm512_storeu_si512(out + (k / 2 + i) * kPanelLanes + half, block[i]);
      }
  }
}

ONGGI_AVX512_BF16 void round_to_bf16(const float* x, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; i += 32)
    _mm512_mask_storeu_epi16(out + i, count - i >= 32 ? 0xFFFFFFFFu : (1u << (count - i)) - 1,
                             load_pairs(x + i, count - i));
}

ONGGI_AVX512_BF16 void interleave_rows(const uint16_t* first, const uint16_t* second, int64_t count,
                                       int64_t panel_stride, uint32_t* out) {
  for (int64_t i = 0; i < count; i += 32, out += panel_stride)
    store_interleaved(load_words(first + i, count - i),
                      second != nullptr ? load_words(second + i, count - i) : _mm512_setzero_si512(),
                      count - i, out);
}

ONGGI_AVX512_BF16 void interleave_rows(const float* first, const float* second, int64_t count,
                                       int64_t panel_stride, uint32_t* out) {
  for (int64_t i = 0; i < count; i += 32, out += panel_stride)
    store_interleaved(load_pairs(first + i, count - i),
                      second != nullptr ? load_pairs(second + i, count - i) : _mm512_setzero_si512(),
                      count - i, out);
}

ONGGI_AVX512_BF16 void transpose_to(const TransposeArgs& args) {
  for (int64_t n = 0; n < args.rows; n += 16)
    for (int64_t t = 0; t < args.columns; t += 16) {
      const __mmask16 tokens = first_lanes(args.columns - t), features = first_lanes(args.rows - n);
      __m512i block[16];
      for (int64_t i = 0; i < 16; ++i)
        block[i] = n + i < args.rows ? _mm512_maskz_loadu_epi32(tokens, args.c + (n + i) * args.c_row + t)
                                     : _mm512_setzero_si512();
      transpose16(block);
      const int64_t count = std::min<int64_t>(16, args.columns - t);
      for (int64_t i = 0; i < count; ++i) {
        float* out = args.out + (t + i) * args.out_row + n;
        __m512 value = _mm512_castsi512_ps(block[i]);
        if (args.accumulate) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(features, out));
        _mm512_mask_storeu_ps(out, features, value);
      }
    }
}

}  // namespace onggi::cpu

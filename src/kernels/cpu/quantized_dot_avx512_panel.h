// Block formats for several tokens: 32 rows are transposed so that one lane is one row. Sums of 16 or 32
// products then need no shuffle and one conversion, and each weight that was loaded meets several tokens.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/cpu/quantized_dot_avx512_formats.h"
#include "kernels/cpu/quantized_dot_kernels.h"

namespace onggi::cpu::avx512 {

inline constexpr int kLanes = 16;
inline constexpr int kPanels = 2;  // side by side: an activation that was loaded meets 32 rows
inline constexpr int kPanelRows = kLanes * kPanels;
inline constexpr int kQuads = kSuperElements / 4;  // a 32-bit lane multiplies four values
inline constexpr int kTileTokens = 6;              // 2 x 6 integer and 2 x 6 float sums fit the 32 registers

// 256 columns of 16 rows; lane r of a vector belongs to row r.
struct alignas(64) Panel {
  uint8_t quads[kQuads][kLanes][4];  // quad k holds values 4k .. 4k + 3 of each row
  // Of each sub-block; only even ones are used where kSub is 32.
  float scales[kSuperSubs][kLanes];
  float minimums[kSuperSubs][kLanes];
};

// --- filling ---

// 16 vectors of 16 lanes, transposed.
ONGGI_AVX512_VNNI_INLINE void transpose(__m512i (&v)[kLanes]) {
  __m512i u[kLanes];
#pragma GCC unroll 8
  for (int i = 0; i < kLanes; i += 2) {
    u[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    u[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  // v[4g + c]: column c of each 128-bit lane's 4 x 4 square, of rows 4g .. 4g + 3.
#pragma GCC unroll 4
  for (int i = 0; i < kLanes; i += 4) {
    v[i] = _mm512_unpacklo_epi64(u[i], u[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(u[i], u[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(u[i + 1], u[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(u[i + 1], u[i + 3]);
  }
  // Column 4b + c is the 128-bit lane b of v[c], v[4 + c], v[8 + c] and v[12 + c].
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    u[c] = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x44);
    u[4 + c] = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xEE);
    u[8 + c] = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x44);
    u[12 + c] = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xEE);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    v[c] = _mm512_shuffle_i32x4(u[c], u[8 + c], 0x88);
    v[4 + c] = _mm512_shuffle_i32x4(u[c], u[8 + c], 0xDD);
    v[8 + c] = _mm512_shuffle_i32x4(u[4 + c], u[12 + c], 0x88);
    v[12 + c] = _mm512_shuffle_i32x4(u[4 + c], u[12 + c], 0xDD);
  }
}

ONGGI_AVX512_VNNI_INLINE void transpose_to(__m512i (&v)[kLanes], void* out) {
  transpose(v);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) _mm512_store_si512(static_cast<__m512i*>(out) + i, v[i]);
}

template <typename Format, int I>
ONGGI_AVX512_VNNI void fill_piece(const typename Format::Super* const* rows, Panel& panel) {
  __m512i v[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) v[r] = Format::template piece<I>(*rows[r]);
  transpose_to(v, panel.quads[kLanes * I]);
}

template <typename Format>
ONGGI_AVX512_VNNI void fill_quads(const typename Format::Super* const* rows, Panel& panel) {
  fill_piece<Format, 0>(rows, panel);
  fill_piece<Format, 1>(rows, panel);
  fill_piece<Format, 2>(rows, panel);
  fill_piece<Format, 3>(rows, panel);
}

// Nibbles are transposed before they are taken apart: half the work.
template <>
ONGGI_AVX512_VNNI inline void fill_quads<Q4K>(const BlockQ4K* const* rows, Panel& panel) {
  const __m512i low_nibbles = _mm512_set1_epi8(15);
  for (int half = 0; half < 2; ++half) {
    __m512i v[kLanes];
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) v[r] = _mm512_loadu_si512(rows[r]->qs + 64 * half);
    transpose(v);
    // 32 bytes hold sub-block 2j, then 2j + 1, of eight quads each.
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      auto* out = panel.quads[32 * half + 16 * (i / 8) + i % 8];
      _mm512_store_si512(out, _mm512_and_si512(v[i], low_nibbles));
      _mm512_store_si512(out + 8 * kLanes, _mm512_and_si512(_mm512_srli_epi16(v[i], 4), low_nibbles));
    }
  }
}

template <typename Format>
ONGGI_AVX512_VNNI void fill_scales(const typename Format::Super* const* rows, Panel& panel) {
  __m512i v[kLanes];
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) v[r] = _mm512_castps_si512(Format::scales(*rows[r]));
  transpose_to(v, panel.scales);
  if constexpr (Format::kOffset == 0) {
#pragma GCC unroll 16
    for (int r = 0; r < kLanes; ++r) v[r] = _mm512_castps_si512(Format::minimums(*rows[r]));
    transpose_to(v, panel.minimums);
  }
}

// Byte `kByte` of each lane's `low`, or for kByte >= 4 the nibble of `last` with two more bits from `low`:
// see q4k_scale_min, here for 16 rows at a time.
template <int kByte>
ONGGI_AVX512_VNNI_INLINE __m512 six_bits(__m512i low, __m512i last) {
  if constexpr (kByte < 4) {
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(low, 8 * kByte), _mm512_set1_epi32(63)));
  } else {
    const __m512i nibble = _mm512_and_si512(_mm512_srli_epi32(last, 8 * (kByte - 4)), _mm512_set1_epi32(15));
    const __m512i top =
        _mm512_and_si512(_mm512_srli_epi32(low, 8 * (kByte - 4) + 2), _mm512_set1_epi32(0x30));
    return _mm512_cvtepi32_ps(_mm512_or_si512(nibble, top));
  }
}

template <int kSubBlock>
ONGGI_AVX512_VNNI_INLINE void store_six_bits(const __m512i (&words)[4], __m512 d, __m512 dmin, Panel& panel) {
  _mm512_store_ps(panel.scales[2 * kSubBlock], _mm512_mul_ps(d, six_bits<kSubBlock>(words[1], words[3])));
  _mm512_store_ps(panel.minimums[2 * kSubBlock],
                  _mm512_mul_ps(dmin, six_bits<kSubBlock>(words[2], _mm512_srli_epi32(words[3], 4))));
}

// Q4_K and Q5_K: the first 16 bytes of 16 blocks become four vectors (d and dmin, then the scales' bytes).
template <typename Block>
ONGGI_AVX512_VNNI_INLINE void fill_six_bit_scales(const Block* const* rows, Panel& panel) {
  __m512i v[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i])));
    v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x00F0,
                                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[4 + i])));
    v[i] = _mm512_mask_broadcast_i32x4(v[i], 0x0F00,
                                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[8 + i])));
    v[i] = _mm512_mask_broadcast_i32x4(v[i], 0xF000,
                                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[12 + i])));
  }
  const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
  const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  const __m512i words[4] = {_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c),
                            _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)};
  const __m512 scale = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words[0]));
  const __m512 minimum = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(words[0], 16)));
  store_six_bits<0>(words, scale, minimum, panel);
  store_six_bits<1>(words, scale, minimum, panel);
  store_six_bits<2>(words, scale, minimum, panel);
  store_six_bits<3>(words, scale, minimum, panel);
  store_six_bits<4>(words, scale, minimum, panel);
  store_six_bits<5>(words, scale, minimum, panel);
  store_six_bits<6>(words, scale, minimum, panel);
  store_six_bits<7>(words, scale, minimum, panel);
}

template <>
ONGGI_AVX512_VNNI inline void fill_scales<Q4K>(const BlockQ4K* const* rows, Panel& panel) {
  fill_six_bit_scales(rows, panel);
}
template <>
ONGGI_AVX512_VNNI inline void fill_scales<Q5K>(const BlockQ5K* const* rows, Panel& panel) {
  fill_six_bit_scales(rows, panel);
}

// --- multiplying ---

ONGGI_AVX512_VNNI_INLINE __m512i broadcast_quad(const int8_t* q) {
  int32_t quad;
  std::memcpy(&quad, q, sizeof quad);
  return _mm512_set1_epi32(quad);
}

// Sums over a sub-block for 32 rows and kTokens tokens, scaled by the weights' scales.
template <int kSub, bool kMinimums, int kTokens>
ONGGI_AVX512_VNNI_INLINE void scaled_sums(const Panel (&panels)[kPanels], const ActivationBlock* x, int sub,
                                          __m512 (&out)[kPanels][kTokens]) {
  __m512i sums[kPanels][kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    sums[0][t] = kMinimums ? _mm512_setzero_si512() : _mm512_set1_epi32(x[t].start[sub]);
    sums[1][t] = sums[0][t];
  }
#pragma GCC unroll 8
  for (int k = 0; k < kSub / 4; ++k) {
    const __m512i w0 = _mm512_load_si512(panels[0].quads[4 * sub + k]);
    const __m512i w1 = _mm512_load_si512(panels[1].quads[4 * sub + k]);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const __m512i q = broadcast_quad(x[t].q + 16 * sub + 4 * k);
      sums[0][t] = _mm512_dpbusd_epi32(sums[0][t], w0, q);
      sums[1][t] = _mm512_dpbusd_epi32(sums[1][t], w1, q);
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
    const __m512 scales = _mm512_load_ps(panels[p].scales[sub]);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) out[p][t] = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[p][t]), scales);
  }
}

// What to ask memory for during a tile, a piece per sub-block: many requests at once would stall everything
// else.
struct Ahead {
  const std::byte* at = nullptr;
  int64_t bytes_per_sub = 0;
};

// totals[t][16 p + r] += the products of the panels' rows and kTokens tokens.
template <int kSub, bool kMinimums, int kTokens>
ONGGI_AVX512_VNNI void multiply_tile(const Panel (&panels)[kPanels], const ActivationBlock* x,
                                     float (*totals)[kPanelRows], Ahead ahead) {
  __m512 total[kPanels][kTokens];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) total[p][t] = _mm512_load_ps(totals[t] + kLanes * p);
  for (int sub = 0; sub < kSuperSubs; sub += kSub / 16) {
    for (int64_t line = 0; line < ahead.bytes_per_sub; line += 64)
      _mm_prefetch(reinterpret_cast<const char*>(ahead.at + line), _MM_HINT_T1);
    ahead.at += ahead.bytes_per_sub;
    __m512 products[kPanels][kTokens];
    scaled_sums<kSub, kMinimums, kTokens>(panels, x, sub, products);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const __m512 scale = _mm512_set1_ps(x[t].scale[sub]);
      total[0][t] = _mm512_fmadd_ps(products[0][t], scale, total[0][t]);
      total[1][t] = _mm512_fmadd_ps(products[1][t], scale, total[1][t]);
    }
    if constexpr (kMinimums) {
      const __m512 m0 = _mm512_load_ps(panels[0].minimums[sub]), m1 = _mm512_load_ps(panels[1].minimums[sub]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const __m512 sum = _mm512_set1_ps(x[t].sum[sub]);
        total[0][t] = _mm512_fnmadd_ps(m0, sum, total[0][t]);
        total[1][t] = _mm512_fnmadd_ps(m1, sum, total[1][t]);
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) _mm512_store_ps(totals[t] + kLanes * p, total[p][t]);
}

using Tile = void (*)(const Panel (&)[kPanels], const ActivationBlock*, float (*)[kPanelRows], Ahead);
template <int kSub, bool kMinimums>
inline constexpr Tile kTiles[kTileTokens + 1] = {nullptr,
                                                 multiply_tile<kSub, kMinimums, 1>,
                                                 multiply_tile<kSub, kMinimums, 2>,
                                                 multiply_tile<kSub, kMinimums, 3>,
                                                 multiply_tile<kSub, kMinimums, 4>,
                                                 multiply_tile<kSub, kMinimums, 5>,
                                                 multiply_tile<kSub, kMinimums, 6>};

// --- rows ---

struct PanelScratch {
  Panel panels[kPanels];
  // followed by f32 [T, 32]

  auto totals() { return reinterpret_cast<float(*)[kPanelRows]>(this + 1); }
};

inline int64_t panel_scratch_bytes(const LinearArgs& args) {
  return static_cast<int64_t>(sizeof(PanelScratch)) +
         args.tokens * kPanelRows * static_cast<int64_t>(sizeof(float));
}

// Where 32 rows' super-blocks s lie, from row n on; rows beyond the last repeat it. Blocks of 32 values may
// end inside the last super-block of a row: then it is copied, the rest zero.
template <typename Format>
struct SuperRows {
  using Super = typename Format::Super;
  const Super* at[kPanelRows];
  Super padded[kPanelRows];

  void point(const DotTask& task, int64_t row_bytes, int64_t n, int64_t end, int64_t s) {
    constexpr auto kBytes = static_cast<int64_t>(sizeof(Super));
    const int64_t left = std::min(kBytes, row_bytes - s * kBytes);
    for (int r = 0; r < kPanelRows; ++r) {
      const std::byte* from = task.row(std::min(n + r, end - 1), row_bytes) + s * kBytes;
      at[r] = reinterpret_cast<const Super*>(from);
      if (left == kBytes) continue;
      padded[r] = Super{};
      std::memcpy(&padded[r], from, static_cast<size_t>(left));
      at[r] = &padded[r];
    }
  }
};

template <typename Format>
void panel_rows(const DotTask& task, int64_t begin, int64_t end, std::byte* scratch_memory) {
  const int64_t columns = task.args.weight.columns, tokens = task.args.tokens;
  const int64_t row_bytes = dtype_bytes(task.args.weight.dtype, columns);
  const int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
  auto& scratch = *reinterpret_cast<PanelScratch*>(scratch_memory);
  auto* totals = scratch.totals();
  const int64_t supers = super_blocks(columns), subs = kSuperElements / Format::kSub;
  SuperRows<Format> rows;
  for (int64_t n = begin; n < end; n += kPanelRows) {
    std::fill_n(totals[0], tokens * kPanelRows, 0.0f);
    for (int64_t s = 0; s < supers; ++s) {
      rows.point(task, row_bytes, n, end, s);
      for (int p = 0; p < kPanels; ++p) {
        fill_quads<Format>(rows.at + kLanes * p, scratch.panels[p]);
        fill_scales<Format>(rows.at + kLanes * p, scratch.panels[p]);
      }
      // The next rows, of which no hardware prefetcher would see the order: a share with each super-block.
      const int64_t next_bytes = std::clamp<int64_t>(end - n - kPanelRows, 0, kPanelRows) * row_bytes;
      const std::byte* next = task.row(n + kPanelRows, row_bytes) + next_bytes * s / supers;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const Ahead ahead = {next, tile == 0 ? next_bytes / (supers * subs) : 0};
        const int64_t first = tokens * tile / tiles, last = tokens * (tile + 1) / tiles;
        kTiles<Format::kSub, Format::kOffset == 0>[last - first](
            scratch.panels, task.unit<ActivationBlock>(s, first), totals + first, ahead);
      }
    }
    const int64_t count = std::min<int64_t>(kPanelRows, end - n);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t r = 0; r < count; ++r) task.put(t, n + r, totals[t][r]);
  }
}

}  // namespace onggi::cpu::avx512

// Block formats with AVX-512 VNNI: row by row for few tokens, in panels of 16 rows for more.
#include <algorithm>

#include "kernels/cpu/quantized_dot_avx512_formats.h"
#include "kernels/cpu/quantized_dot_kernels.h"

namespace onggi::cpu {
namespace avx512 {
namespace {

// Up to here a row is multiplied straight from its blocks. Above, 16 rows are transposed so that one lane is
// one row: more work per weight, but sums of 32 products need no shuffle and one conversion.
constexpr int64_t kRowwiseTokens = 3;
constexpr int kPanelRows = 16;
constexpr int kTileTokens = 8;
constexpr int kQuads = kSuperElements / 4;  // a 32-bit lane multiplies four values

// --- activations ---

// Sums of each four neighbouring lanes.
ONGGI_AVX512_VNNI_INLINE __m128i sums_of_four(__m512i lanes) {
  lanes = _mm512_add_epi32(lanes, _mm512_shuffle_epi32(lanes, _MM_PERM_BADC));
  lanes = _mm512_add_epi32(lanes, _mm512_shuffle_epi32(lanes, _MM_PERM_CDAB));
  return _mm512_castsi512_si128(_mm512_maskz_compress_epi32(0x1111, lanes));
}

// 32 values as int8; returns their scale.
ONGGI_AVX512_VNNI_INLINE float quantize_group(const float* x, int8_t* q) {
  const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  const ActivationScale scale = activation_scale(
      _mm512_reduce_max_epi32(_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(low), magnitude),
                                               _mm512_and_si512(_mm512_castps_si512(high), magnitude))));
  const __m512 inverse = _mm512_set1_ps(scale.inverse);
  auto* out = reinterpret_cast<__m128i*>(q);
  _mm_storeu_si128(out, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(low, inverse))));
  _mm_storeu_si128(out + 1, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(high, inverse))));
  return scale.scale;
}

template <typename Format>
ONGGI_AVX512_VNNI void prepare_block(const float* x, ActivationBlock& block) {
  for (int group = 0; group < kSuperElements / kActivationGroup; ++group)
    block.scale[2 * group] = block.scale[2 * group + 1] =
        quantize_group(x + kActivationGroup * group, block.q + kActivationGroup * group);
  alignas(64) int32_t sums[kSuperSubs];
  for (int i = 0; i < 4; ++i) {
    const __m512i q = _mm512_load_si512(block.q + 64 * i);
    const __m512i quads = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), q);
    _mm_store_si128(reinterpret_cast<__m128i*>(sums + 4 * i), sums_of_four(quads));
  }
  __m512i sum = _mm512_load_si512(sums);
  if constexpr (Format::kSub == 32) {
    const __m512i pairs = _mm512_add_epi32(sum, _mm512_shuffle_epi32(sum, _MM_PERM_CDAB));
    sum = _mm512_maskz_mov_epi32(0x5555, pairs);
  }
  if constexpr (Format::kOffset != 0) sum = _mm512_mullo_epi32(sum, _mm512_set1_epi32(Format::kOffset));
  _mm512_store_si512(block.start, _mm512_sub_epi32(_mm512_setzero_si512(), sum));
  _mm512_store_ps(block.sum, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_load_ps(block.scale)));
}

template <typename Format>
ONGGI_AVX512_VNNI void prepare(const float* x, int64_t columns, std::byte* out) {
  auto* blocks = reinterpret_cast<ActivationBlock*>(out);
  const int64_t whole = columns / kSuperElements;
  for (int64_t s = 0; s < whole; ++s) prepare_block<Format>(x + kSuperElements * s, blocks[s]);
  if (columns % kSuperElements == 0) return;
  alignas(64) float padded[kSuperElements] = {};
  std::copy(x + kSuperElements * whole, x + columns, padded);
  prepare_block<Format>(padded, blocks[whole]);
}

// --- row by row ---

// What a weight format's minimums are multiplied with `sum`; formats around a middle value have the offset in
// it.
template <typename Format>
ONGGI_AVX512_VNNI_INLINE __m512 minimums_or_scales(const typename Format::Super& super, __m512 scales) {
  if constexpr (Format::kOffset == 0) {
    return Format::minimums(super);
  } else {
    return scales;
  }
}

// Lanes 4I .. 4I + 3 of 16, each four times: the scales of a piece.
template <int I>
ONGGI_AVX512_VNNI_INLINE __m512 spread(__m512 values) {
  const __m512i lanes =
      _mm512_set_epi32(4 * I + 3, 4 * I + 3, 4 * I + 3, 4 * I + 3, 4 * I + 2, 4 * I + 2, 4 * I + 2, 4 * I + 2,
                       4 * I + 1, 4 * I + 1, 4 * I + 1, 4 * I + 1, 4 * I, 4 * I, 4 * I, 4 * I);
  return _mm512_permutexvar_ps(lanes, values);
}

template <int I>
ONGGI_AVX512_VNNI_INLINE __m512 add_piece(__m512 sum, __m512i weights, const ActivationBlock& x,
                                          __m512 scales) {
  const __m512i quads = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, _mm512_load_si512(x.q + 64 * I));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(quads), spread<I>(scales), sum);
}

// Two sums per token, so that additions do not wait for each other.
template <typename Format, int kTokens>
ONGGI_AVX512_VNNI_INLINE void add_super(const typename Format::Super& super,
                                        const ActivationBlock* const (&x)[kTokens], int64_t s,
                                        __m512 (&even)[kTokens], __m512 (&odd)[kTokens]) {
  const __m512 scales = Format::scales(super);
  const __m512 minimums = minimums_or_scales<Format>(super, scales);
  const __m512i w0 = Format::template piece<0>(super), w1 = Format::template piece<1>(super);
  const __m512i w2 = Format::template piece<2>(super), w3 = Format::template piece<3>(super);
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    const ActivationBlock& block = x[t][s];
    const __m512 both = _mm512_mul_ps(scales, _mm512_load_ps(block.scale));
    even[t] = _mm512_fnmadd_ps(minimums, _mm512_load_ps(block.sum), even[t]);
    odd[t] = add_piece<0>(odd[t], w0, block, both);
    even[t] = add_piece<1>(even[t], w1, block, both);
    odd[t] = add_piece<2>(odd[t], w2, block, both);
    even[t] = add_piece<3>(even[t], w3, block, both);
  }
}

template <typename Format, int kTokens>
ONGGI_AVX512_VNNI void rowwise(const DotTask& task, int64_t begin, int64_t end) {
  using Super = typename Format::Super;
  const int64_t columns = task.args.weight.columns, whole = columns / kSuperElements;
  const int64_t row_bytes = dtype_bytes(task.args.weight.dtype, columns);
  const ActivationBlock* x[kTokens];
  for (int t = 0; t < kTokens; ++t) x[t] = task.token<ActivationBlock>(t);
  for (int64_t n = begin; n < end; ++n) {
    const std::byte* row = task.row(n, row_bytes);
    const auto* supers = reinterpret_cast<const Super*>(row);
    __m512 even[kTokens], odd[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) even[t] = odd[t] = _mm512_setzero_ps();
    for (int64_t s = 0; s < whole; ++s) add_super<Format, kTokens>(supers[s], x, s, even, odd);
    if (whole * kSuperElements < columns) {
      Super padded{};
      std::memcpy(&padded, supers + whole, static_cast<size_t>(row_bytes) - sizeof(Super) * whole);
      add_super<Format, kTokens>(padded, x, whole, even, odd);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) task.put(t, n, _mm512_reduce_add_ps(_mm512_add_ps(even[t], odd[t])));
  }
}

// --- panels ---

// 256 columns of 16 rows; lane r of a vector belongs to row r.
struct alignas(64) Panel {
  uint8_t quads[kQuads][kPanelRows][4];  // quad k holds values 4k .. 4k + 3 of each row
  float scales[kSuperSubs][kPanelRows];
  float minimums[kSuperSubs][kPanelRows];
};

// 16 vectors of 16 lanes, transposed: four steps of exchanging 1, 2, 4 and 8 lanes.
ONGGI_AVX512_VNNI_INLINE void transpose_and_store(__m512i (&v)[16], void* out) {
  __m512i u[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    u[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
    u[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
  }
  // v[4g + c]: column c of each 128-bit lane's 4 x 4 square, of rows 4g .. 4g + 3.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    v[i] = _mm512_unpacklo_epi64(u[i], u[i + 2]);
    v[i + 1] = _mm512_unpackhi_epi64(u[i], u[i + 2]);
    v[i + 2] = _mm512_unpacklo_epi64(u[i + 1], u[i + 3]);
    v[i + 3] = _mm512_unpackhi_epi64(u[i + 1], u[i + 3]);
  }
  // Exchange 128-bit lanes among the four groups of rows: column 4b + c needs lane b of v[c], v[4 + c] ...
  auto* columns = static_cast<__m512i*>(out);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i low01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0x44),
                  high01 = _mm512_shuffle_i32x4(v[c], v[4 + c], 0xEE);
    const __m512i low23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0x44),
                  high23 = _mm512_shuffle_i32x4(v[8 + c], v[12 + c], 0xEE);
    _mm512_store_si512(columns + c, _mm512_shuffle_i32x4(low01, low23, 0x88));
    _mm512_store_si512(columns + 4 + c, _mm512_shuffle_i32x4(low01, low23, 0xDD));
    _mm512_store_si512(columns + 8 + c, _mm512_shuffle_i32x4(high01, high23, 0x88));
    _mm512_store_si512(columns + 12 + c, _mm512_shuffle_i32x4(high01, high23, 0xDD));
  }
}

template <typename Format, int I>
ONGGI_AVX512_VNNI void fill_piece(const typename Format::Super* const* rows, Panel& panel) {
  __m512i v[kPanelRows];
#pragma GCC unroll 16
  for (int r = 0; r < kPanelRows; ++r) v[r] = Format::template piece<I>(*rows[r]);
  transpose_and_store(v, panel.quads[16 * I]);
}

template <typename Format>
ONGGI_AVX512_VNNI void fill(const typename Format::Super* const* rows, Panel& panel) {
  fill_piece<Format, 0>(rows, panel);
  fill_piece<Format, 1>(rows, panel);
  fill_piece<Format, 2>(rows, panel);
  fill_piece<Format, 3>(rows, panel);
  __m512i v[kPanelRows];
#pragma GCC unroll 16
  for (int r = 0; r < kPanelRows; ++r) v[r] = _mm512_castps_si512(Format::scales(*rows[r]));
  transpose_and_store(v, panel.scales);
  if constexpr (Format::kOffset == 0) {
#pragma GCC unroll 16
    for (int r = 0; r < kPanelRows; ++r) v[r] = _mm512_castps_si512(Format::minimums(*rows[r]));
    transpose_and_store(v, panel.minimums);
  }
}

ONGGI_AVX512_VNNI_INLINE __m512i broadcast_quad(const int8_t* q) {
  int32_t quad;
  std::memcpy(&quad, q, sizeof quad);
  return _mm512_set1_epi32(quad);
}

// Adds kCount quads from quad k on to the integer sums of each token.
template <int kTokens, int kCount>
ONGGI_AVX512_VNNI_INLINE void multiply_quads(const Panel& panel, const ActivationBlock* const (&x)[kTokens],
                                             int k, __m512i (&sum)[kTokens]) {
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j) {
    const __m512i w = _mm512_load_si512(panel.quads[k + j]);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      sum[t] = _mm512_dpbusd_epi32(sum[t], w, broadcast_quad(x[t]->q + 4 * (k + j)));
  }
}

// The integer sums over sub-block `sub`, scaled by the weights' scales, for each token.
template <typename Format, int kTokens>
ONGGI_AVX512_VNNI_INLINE void scaled_sums(const Panel& panel, const ActivationBlock* const (&x)[kTokens],
                                          int sub, __m512 (&out)[kTokens]) {
  __m512i sum[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t)
    sum[t] = Format::kOffset == 0 ? _mm512_setzero_si512() : _mm512_set1_epi32(x[t]->start[sub]);
  multiply_quads<kTokens, Format::kSub / 4>(panel, x, 4 * sub, sum);
  const __m512 scales = _mm512_load_ps(panel.scales[sub]);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) out[t] = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[t]), scales);
}

// totals[t][r] += the products of the panel's rows and kTokens tokens.
template <typename Format, int kTokens>
ONGGI_AVX512_VNNI void multiply_tile(const Panel& panel, const ActivationBlock* const* tokens,
                                     float (*totals)[kPanelRows]) {
  const ActivationBlock* x[kTokens];
  __m512 total[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    x[t] = tokens[t];
    total[t] = _mm512_load_ps(totals[t]);
  }
  for (int sub = 0; sub < kSuperSubs; sub += 2) {
    __m512 products[kTokens];
    scaled_sums<Format, kTokens>(panel, x, sub, products);
    if constexpr (Format::kSub == 16) {
      __m512 second[kTokens];
      scaled_sums<Format, kTokens>(panel, x, sub + 1, second);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) products[t] = _mm512_add_ps(products[t], second[t]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      total[t] = _mm512_fmadd_ps(products[t], _mm512_set1_ps(x[t]->scale[sub]), total[t]);
    if constexpr (Format::kOffset == 0) {
      for (int half = 0; half < 32 / Format::kSub; ++half) {
        const __m512 minimums = _mm512_load_ps(panel.minimums[sub + half]);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t)
          total[t] = _mm512_fnmadd_ps(minimums, _mm512_set1_ps(x[t]->sum[sub + half]), total[t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) _mm512_store_ps(totals[t], total[t]);
}

using Tile = void (*)(const Panel&, const ActivationBlock* const*, float (*)[kPanelRows]);
template <typename Format>
constexpr Tile kTiles[kTileTokens + 1] = {nullptr,
                                          multiply_tile<Format, 1>,
                                          multiply_tile<Format, 2>,
                                          multiply_tile<Format, 3>,
                                          multiply_tile<Format, 4>,
                                          multiply_tile<Format, 5>,
                                          multiply_tile<Format, 6>,
                                          multiply_tile<Format, 7>,
                                          multiply_tile<Format, 8>};

// The totals of tokens t, for panels' rows; see panels_scratch.
template <typename Format>
ONGGI_AVX512_VNNI void multiply_panel(const DotTask& task, int64_t s, const Panel& panel,
                                      float (*totals)[kPanelRows]) {
  const int64_t tokens = task.args.tokens;
  const int64_t tiles = (tokens + kTileTokens - 1) / kTileTokens;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tokens * tile / tiles, last = tokens * (tile + 1) / tiles;
    const ActivationBlock* x[kTileTokens];
    for (int64_t t = first; t < last; ++t) x[t - first] = task.token<ActivationBlock>(t) + s;
    kTiles<Format>[last - first](panel, x, totals + first);
  }
}

template <typename Format>
ONGGI_AVX512_VNNI void panels(const DotTask& task, int64_t begin, int64_t end, std::byte* scratch) {
  using Super = typename Format::Super;
  const int64_t columns = task.args.weight.columns, tokens = task.args.tokens;
  const int64_t row_bytes = dtype_bytes(task.args.weight.dtype, columns);
  const int64_t super_bytes = static_cast<int64_t>(sizeof(Super));
  Panel& panel = *reinterpret_cast<Panel*>(scratch);
  auto* totals = reinterpret_cast<float(*)[kPanelRows]>(scratch + sizeof(Panel));
  Super padded[kPanelRows];
  for (int64_t n = begin; n < end; n += kPanelRows) {
    std::fill_n(totals[0], tokens * kPanelRows, 0.0f);
    for (int64_t s = 0; s < super_blocks(columns); ++s) {
      const Super* rows[kPanelRows];
      const int64_t left = row_bytes - s * super_bytes;
      for (int r = 0; r < kPanelRows; ++r) {
        const std::byte* at = task.row(std::min(n + r, end - 1), row_bytes) + s * super_bytes;
        rows[r] = reinterpret_cast<const Super*>(at);
        if (left < super_bytes) {
          padded[r] = Super{};
          std::memcpy(&padded[r], at, static_cast<size_t>(left));
          rows[r] = &padded[r];
        }
      }
      fill<Format>(rows, panel);
      multiply_panel<Format>(task, s, panel, totals);
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t r = 0; r < std::min<int64_t>(kPanelRows, end - n); ++r) task.put(t, n + r, totals[t][r]);
  }
}

template <typename Format>
void rows(const DotTask& task, int64_t begin, int64_t end, std::byte* scratch) {
  switch (task.args.tokens) {
    case 1:
      return rowwise<Format, 1>(task, begin, end);
    case 2:
      return rowwise<Format, 2>(task, begin, end);
    case kRowwiseTokens:
      return rowwise<Format, kRowwiseTokens>(task, begin, end);
    default:
      return panels<Format>(task, begin, end, scratch);
  }
}

int64_t scratch_bytes(const LinearArgs& args) {
  return static_cast<int64_t>(sizeof(Panel) + sizeof(float[kPanelRows]) * static_cast<size_t>(args.tokens));
}

template <typename Format>
constexpr DotKernel kKernel = {activation_block_bytes, prepare<Format>, scratch_bytes, rows<Format>};

}  // namespace
}  // namespace avx512

DotKernel avx512_dot_kernel(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return avx512::kKernel<avx512::Q4_0>;
    case DType::kQ8_0:
      return avx512::kKernel<avx512::Q8_0>;
    case DType::kQ2_K:
      return avx512::kKernel<avx512::Q2K>;
    case DType::kQ3_K:
      return avx512::kKernel<avx512::Q3K>;
    case DType::kQ4_K:
      return avx512::kKernel<avx512::Q4K>;
    case DType::kQ5_K:
      return avx512::kKernel<avx512::Q5K>;
    case DType::kQ6_K:
      return avx512::kKernel<avx512::Q6K>;
    default:
      return {};
  }
}

}  // namespace onggi::cpu

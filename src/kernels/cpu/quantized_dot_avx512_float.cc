// f32, f16, bf16 and nf4 weights on processors with AVX-512 and its bf16 products.
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "blocks/nf4.h"
#include "kernels/cpu/features.h"
#include "kernels/cpu/quantized_dot_float.h"
#include "kernels/cpu/quantized_dot_kernels.h"

#define ONGGI_AVX512_BF16_INLINE ONGGI_AVX512_BF16 __attribute__((always_inline)) inline

namespace onggi::cpu {
namespace avx512 {
namespace {

constexpr int kTileRows = 4;
constexpr int kTileTokens = 4;
constexpr int kNf4TileRows = 2;
constexpr int kNf4TileTokens = 8;
constexpr int kBf16Lanes = 32;
// How far ahead of the products weights are asked for; hardware looks a few vectors ahead only.
constexpr int kPrefetchBytes = 1024;

// Bytes of a row of bf16.
int64_t bf16_bytes(int64_t columns) { return (columns * 2 + 63) / 64 * 64; }

// --- plain types: tiles of rows and tokens ---

// For each type: vectors of weights and activations, where `count` elements are left before the row's end,
// and their products added to f32 lanes.
struct F32 {
  using Weight = float;
  using Activation = float;
  using Vector = __m512;
  static constexpr int kLanes = 16;
  ONGGI_AVX512_BF16_INLINE static __m512 activations(const float* x, int64_t count) {
    return _mm512_maskz_loadu_ps(_cvtu32_mask16(count >= kLanes ? 0xFFFF : (1u << count) - 1), x);
  }
  ONGGI_AVX512_BF16_INLINE static __m512 weights(const float* w, int64_t count) {
    return activations(w, count);
  }
  ONGGI_AVX512_BF16_INLINE static __m512 add(__m512 sum, __m512 w, __m512 x) {
    return _mm512_fmadd_ps(w, x, sum);
  }
};

struct F16 : F32 {
  using Weight = uint16_t;
  ONGGI_AVX512_BF16_INLINE static __m512 weights(const uint16_t* w, int64_t count) {
    const __mmask16 mask = _cvtu32_mask16(count >= kLanes ? 0xFFFF : (1u << count) - 1);
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, w));
  }
};

struct BF16 {
  using Weight = uint16_t;
  using Activation = uint16_t;
  using Vector = __m512i;
  static constexpr int kLanes = kBf16Lanes;
  ONGGI_AVX512_BF16_INLINE static __m512i activations(const uint16_t* x, int64_t count) {
    return _mm512_maskz_loadu_epi16(count >= kLanes ? 0xFFFFFFFF : (1u << count) - 1, x);
  }
  ONGGI_AVX512_BF16_INLINE static __m512i weights(const uint16_t* w, int64_t count) {
    return activations(w, count);
  }
  ONGGI_AVX512_BF16_INLINE static __m512 add(__m512 sum, __m512i w, __m512i x) {
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
  }
};

template <typename Type>
const typename Type::Activation* token_activations(const DotTask& task, int64_t t) {
  if constexpr (std::is_same_v<typename Type::Activation, float>) {
    return task.args.x + t * task.args.weight.columns;
  } else {
    return reinterpret_cast<const typename Type::Activation*>(task.activations +
                                                              t * bf16_bytes(task.args.weight.columns));
  }
}

template <typename Type, int kRows, int kTokens>
ONGGI_AVX512_BF16 void plain_tile(const DotTask& task, int64_t n, int64_t first_token) {
  const int64_t columns = task.args.weight.columns;
  const auto* w = static_cast<const typename Type::Weight*>(task.args.weight.data) + n * columns;
  const typename Type::Activation* x[kTokens];
  for (int t = 0; t < kTokens; ++t) x[t] = token_activations<Type>(task, first_token + t);
  __m512 sums[kRows][kTokens];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) sums[r][t] = _mm512_setzero_ps();
  for (int64_t k = 0; k < columns; k += Type::kLanes) {
    typename Type::Vector weights[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      weights[r] = Type::weights(w + r * columns + k, columns - k);
      _mm_prefetch(reinterpret_cast<const char*>(w + r * columns + k) + kPrefetchBytes, _MM_HINT_T0);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      const typename Type::Vector activations = Type::activations(x[t] + k, columns - k);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) sums[r][t] = Type::add(sums[r][t], weights[r], activations);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) task.put(first_token + t, n + r, _mm512_reduce_add_ps(sums[r][t]));
}

template <typename Type, int kRows>
void plain_rows_of_tokens(const DotTask& task, int64_t n) {
  int64_t t = 0;
  for (; t + kTileTokens <= task.args.tokens; t += kTileTokens)
    plain_tile<Type, kRows, kTileTokens>(task, n, t);
  switch (task.args.tokens - t) {
    case 1:
      return plain_tile<Type, kRows, 1>(task, n, t);
    case 2:
      return plain_tile<Type, kRows, 2>(task, n, t);
    case 3:
      return plain_tile<Type, kRows, 3>(task, n, t);
    default:
      return;
  }
}

template <typename Type>
void plain_rows(const DotTask& task, int64_t begin, int64_t end, std::byte*) {
  int64_t n = begin;
  for (; n + kTileRows <= end; n += kTileRows) plain_rows_of_tokens<Type, kTileRows>(task, n);
  for (; n < end; ++n) plain_rows_of_tokens<Type, 1>(task, n);
}

ONGGI_AVX512_BF16 void prepare_bf16(const LinearArgs& args, int64_t t, std::byte* activations) {
  const int64_t columns = args.weight.columns;
  const float* x = args.x + t * columns;
  auto* to = reinterpret_cast<uint16_t*>(activations + t * bf16_bytes(columns));
  for (int64_t k = 0; k < columns; k += 16) {
    const __m256i narrow = (__m256i)_mm512_cvtneps_pbh(F32::activations(x + k, columns - k));
    const __mmask16 mask = _cvtu32_mask16(columns - k >= 16 ? 0xFFFF : (1u << (columns - k)) - 1);
    _mm256_mask_storeu_epi16(to + k, mask, narrow);
  }
}

// --- nf4 ---

// One block of activations as bf16: those with even indices and those with odd ones, as nibbles come apart.
struct alignas(64) Nf4Activations {
  __m512bh even, odd;
};

ONGGI_AVX512_BF16 void prepare_nf4(const LinearArgs& args, int64_t t, std::byte* activations) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  for (int64_t b = 0; b < args.weight.columns / kNf4BlockElements; ++b) {
    const float* from = args.x + t * args.weight.columns + kNf4BlockElements * b;
    auto* to = reinterpret_cast<Nf4Activations*>(activations) + b * args.tokens + t;
    const __m512 v0 = _mm512_loadu_ps(from), v1 = _mm512_loadu_ps(from + 16);
    const __m512 v2 = _mm512_loadu_ps(from + 32), v3 = _mm512_loadu_ps(from + 48);
    to->even =
        _mm512_cvtne2ps_pbh(_mm512_permutex2var_ps(v2, even, v3), _mm512_permutex2var_ps(v0, even, v1));
    to->odd = _mm512_cvtne2ps_pbh(_mm512_permutex2var_ps(v2, odd, v3), _mm512_permutex2var_ps(v0, odd, v1));
  }
}

// The code as bf16, twice: the look-up takes five bits of an index, of which nibbles leave one arbitrary.
struct alignas(64) Nf4CodeBf16 {
  uint16_t words[kBf16Lanes];
};

Nf4CodeBf16 nf4_code_bf16() {
  Nf4CodeBf16 code;
  for (size_t i = 0; i < kBf16Lanes; ++i) code.words[i] = f32_to_bf16(kNf4Code[i % kNf4Code.size()]);
  return code;
}

// kRows rows, whose absmaxes [kRows, K / 64] lie behind each other, times kTokens tokens.
template <int kRows, int kTokens>
ONGGI_AVX512_BF16 void nf4_tile(const DotTask& task, int64_t n, int64_t first_token, __m512i code,
                                const float* absmaxes) {
  const int64_t blocks = task.args.weight.columns / kNf4BlockElements;
  const auto* packed = static_cast<const __m256i*>(task.args.weight.data) + n * blocks;
  __m512 sums[kRows][kTokens];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) sums[r][t] = _mm512_setzero_ps();
  for (int64_t b = 0; b < blocks; ++b) {
    const auto* x = task.unit<Nf4Activations>(b, first_token);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const __m256i* bytes = packed + r * blocks + b;
      _mm_prefetch(reinterpret_cast<const char*>(bytes) + kPrefetchBytes * kRows, _MM_HINT_T0);
      const __m512i pairs = _mm512_cvtepu8_epi16(_mm256_loadu_si256(bytes));
      const __m512i even = _mm512_permutexvar_epi16(_mm512_srli_epi16(pairs, 4), code);
      const __m512i odd = _mm512_permutexvar_epi16(pairs, code);
      const __m512 absmax = _mm512_set1_ps(absmaxes[r * blocks + b]);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        __m512 block = _mm512_dpbf16_ps(_mm512_setzero_ps(), (__m512bh)even, x[t].even);
        block = _mm512_dpbf16_ps(block, (__m512bh)odd, x[t].odd);
        sums[r][t] = _mm512_fmadd_ps(block, absmax, sums[r][t]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) task.put(first_token + t, n + r, _mm512_reduce_add_ps(sums[r][t]));
}

using Nf4Tile = void (*)(const DotTask&, int64_t, int64_t, __m512i, const float*);
template <int kRows>
constexpr Nf4Tile kNf4Tiles[kNf4TileTokens + 1] = {nullptr,
                                                   nf4_tile<kRows, 1>,
                                                   nf4_tile<kRows, 2>,
                                                   nf4_tile<kRows, 3>,
                                                   nf4_tile<kRows, 4>,
                                                   nf4_tile<kRows, 5>,
                                                   nf4_tile<kRows, 6>,
                                                   nf4_tile<kRows, 7>,
                                                   nf4_tile<kRows, 8>};

template <int kRows>
ONGGI_AVX512_BF16_INLINE void nf4_rows_of_tokens(const DotTask& task, int64_t n, __m512i code,
                                                 float* absmaxes) {
  const int64_t blocks = task.args.weight.columns / kNf4BlockElements;
  const int64_t tokens = task.args.tokens, tiles = (tokens + kNf4TileTokens - 1) / kNf4TileTokens;
  for (int r = 0; r < kRows; ++r) nf4_row_absmaxes(task.args.weight, n + r, absmaxes + r * blocks);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t first = tokens * tile / tiles, last = tokens * (tile + 1) / tiles;
    kNf4Tiles<kRows>[last - first](task, n, first, code, absmaxes);
  }
}

ONGGI_AVX512_BF16 void nf4_rows(const DotTask& task, int64_t begin, int64_t end, std::byte* scratch) {
  const Nf4CodeBf16 words = nf4_code_bf16();
  const __m512i code = _mm512_load_si512(words.words);
  auto* absmaxes = reinterpret_cast<float*>(scratch);
  int64_t n = begin;
  for (; n + kNf4TileRows <= end; n += kNf4TileRows)
    nf4_rows_of_tokens<kNf4TileRows>(task, n, code, absmaxes);
  for (; n < end; ++n) nf4_rows_of_tokens<1>(task, n, code, absmaxes);
}

int64_t nf4_bytes(int64_t columns) { return columns * 2; }
int64_t no_scratch(const LinearArgs&) { return 0; }
int64_t absmax_scratch(const LinearArgs& args) {
  return kNf4TileRows * (args.weight.columns / kNf4BlockElements) * static_cast<int64_t>(sizeof(float));
}

}  // namespace
}  // namespace avx512

DotKernel avx512_float_dot_kernel(DType dtype) {
  using namespace avx512;
  switch (dtype) {
    case DType::kF32:
      return {no_activation_bytes, nullptr, no_scratch, plain_rows<F32>};
    case DType::kF16:
      return {no_activation_bytes, nullptr, no_scratch, plain_rows<F16>};
    case DType::kBF16:
      return {bf16_bytes, prepare_bf16, no_scratch, plain_rows<BF16>};
    case DType::kNF4:
      return {nf4_bytes, prepare_nf4, absmax_scratch, nf4_rows};
    default:
      return {};
  }
}

}  // namespace onggi::cpu

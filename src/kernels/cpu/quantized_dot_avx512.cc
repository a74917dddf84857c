// Block formats with AVX-512 VNNI: row by row for few tokens, in panels of 16 rows for more.
#include <algorithm>

#include "kernels/cpu/quantized_dot_avx512_formats.h"
#include "kernels/cpu/quantized_dot_avx512_panel.h"
#include "kernels/cpu/quantized_dot_kernels.h"

namespace onggi::cpu {
namespace avx512 {
namespace {

// Up to here a row is multiplied straight from its blocks; above, transposing panels of rows pays.
constexpr int64_t kRowwiseTokens = 3;

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
ONGGI_AVX512_VNNI void prepare(const LinearArgs& args, int64_t t, std::byte* activations) {
  auto* blocks = reinterpret_cast<ActivationBlock*>(activations) + t;
  const int64_t columns = args.weight.columns, whole = columns / kSuperElements;
  const float* x = args.x + t * columns;
  for (int64_t s = 0; s < whole; ++s) prepare_block<Format>(x + kSuperElements * s, blocks[s * args.tokens]);
  if (columns % kSuperElements == 0) return;
  alignas(64) float padded[kSuperElements] = {};
  std::copy(x + kSuperElements * whole, x + columns, padded);
  prepare_block<Format>(padded, blocks[whole * args.tokens]);
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
ONGGI_AVX512_VNNI_INLINE void add_super(const typename Format::Super& super, const ActivationBlock* x,
                                        __m512 (&even)[kTokens], __m512 (&odd)[kTokens]) {
  const __m512 scales = Format::scales(super);
  const __m512 minimums = minimums_or_scales<Format>(super, scales);
  const __m512i w0 = Format::template piece<0>(super), w1 = Format::template piece<1>(super);
  const __m512i w2 = Format::template piece<2>(super), w3 = Format::template piece<3>(super);
#pragma GCC unroll 4
  for (int t = 0; t < kTokens; ++t) {
    const __m512 both = _mm512_mul_ps(scales, _mm512_load_ps(x[t].scale));
    even[t] = _mm512_fnmadd_ps(minimums, _mm512_load_ps(x[t].sum), even[t]);
    odd[t] = add_piece<0>(odd[t], w0, x[t], both);
    even[t] = add_piece<1>(even[t], w1, x[t], both);
    odd[t] = add_piece<2>(odd[t], w2, x[t], both);
    even[t] = add_piece<3>(even[t], w3, x[t], both);
  }
}

template <typename Format, int kTokens>
ONGGI_AVX512_VNNI void rowwise(const DotTask& task, int64_t begin, int64_t end) {
  using Super = typename Format::Super;
  const int64_t columns = task.args.weight.columns, whole = columns / kSuperElements;
  const int64_t row_bytes = dtype_bytes(task.args.weight.dtype, columns);
  for (int64_t n = begin; n < end; ++n) {
    const auto* supers = reinterpret_cast<const Super*>(task.row(n, row_bytes));
    const ActivationBlock* x = task.unit<ActivationBlock>(0, 0);
    __m512 even[kTokens], odd[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) even[t] = odd[t] = _mm512_setzero_ps();
    for (int64_t s = 0; s < whole; ++s, x += kTokens) add_super<Format, kTokens>(supers[s], x, even, odd);
    if (whole * kSuperElements < columns) {
      Super padded{};
      std::memcpy(&padded, supers + whole,
                  static_cast<size_t>(row_bytes) - sizeof(Super) * static_cast<size_t>(whole));
      add_super<Format, kTokens>(padded, x, even, odd);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) task.put(t, n, _mm512_reduce_add_ps(_mm512_add_ps(even[t], odd[t])));
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
      return panel_rows<Format>(task, begin, end, scratch);
  }
}

template <typename Format>
constexpr DotKernel kKernel = {activation_block_bytes, prepare<Format>, panel_scratch_bytes, rows<Format>};

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

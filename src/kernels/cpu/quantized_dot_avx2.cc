// The few-token kernels for processors with AVX2, with or without AVX-VNNI.
#include <immintrin.h>

#include "kernels/cpu/quantized_dot_float.h"
#include "kernels/cpu/quantized_dot_unpack.h"

#define ONGGI_AVX2 __attribute__((target("avx2,fma,f16c")))
#define ONGGI_AVX2_INLINE ONGGI_AVX2 __attribute__((always_inline)) inline
#define ONGGI_AVXVNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#define ONGGI_AVXVNNI_INLINE ONGGI_AVXVNNI __attribute__((always_inline)) inline

namespace onggi::cpu {
namespace avx2 {
namespace {

ONGGI_AVX2_INLINE __m256i load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

// u8 times i8, sums of four neighbours. Pairs are summed with saturation in 16 bits: exact for u <= 128.
ONGGI_AVX2_INLINE __m256i dot_small(__m256i u, __m256i q) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(u, q), _mm256_set1_epi16(1));
}

// For any u8: the absolute value of w = u - 128 with w's sign moved to q, and 128 q added back.
ONGGI_AVX2_INLINE __m256i dot_any(__m256i u, __m256i q) {
  const __m256i middle = _mm256_set1_epi8(static_cast<char>(0x80));
  const __m256i w = _mm256_xor_si256(u, middle);
  const __m256i signed_part = dot_small(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
  return _mm256_add_epi32(signed_part, dot_small(middle, q));
}

// Two scales, each in four lanes.
ONGGI_AVX2_INLINE __m256 scale_pair(const float* scales) {
  return _mm256_set_m128(_mm_broadcast_ss(scales + 1), _mm_broadcast_ss(scales));
}

// partial += what the minimums take away, and the scaled integer sums of 32 values each.
struct Sums {
  __m256 even, odd;
};

template <typename Format>
ONGGI_AVX2_INLINE Sums begin_sums(const unpacked::Values& w, const ActivationBlock& x, const float* partial,
                                  float* both_scales) {
  const float* minimums = Format::kOffset == 0 ? w.minimums : w.scales;
  Sums sums = {_mm256_loadu_ps(partial), _mm256_loadu_ps(partial + 8)};
  sums.even = _mm256_fnmadd_ps(_mm256_load_ps(minimums), _mm256_load_ps(x.sum), sums.even);
  sums.odd = _mm256_fnmadd_ps(_mm256_load_ps(minimums + 8), _mm256_load_ps(x.sum + 8), sums.odd);
  _mm256_store_ps(both_scales, _mm256_mul_ps(_mm256_load_ps(w.scales), _mm256_load_ps(x.scale)));
  _mm256_store_ps(both_scales + 8, _mm256_mul_ps(_mm256_load_ps(w.scales + 8), _mm256_load_ps(x.scale + 8)));
  return sums;
}

struct Avx2Dot {
  template <typename Format>
  ONGGI_AVX2_INLINE static void add(const unpacked::Values& w, const ActivationBlock& x, float* partial) {
    alignas(32) float scales[kSuperSubs];
    Sums sums = begin_sums<Format>(w, x, partial, scales);
    for (int i = 0; i < 8; i += 2) {
      const __m256i u0 = load(w.q + 32 * i), u1 = load(w.q + 32 * i + 32);
      const __m256i q0 = load(x.q + 32 * i), q1 = load(x.q + 32 * i + 32);
      constexpr bool kSmall = Format::kOffset != 128;
      const __m256i first = kSmall ? dot_small(u0, q0) : dot_any(u0, q0);
      const __m256i second = kSmall ? dot_small(u1, q1) : dot_any(u1, q1);
      sums.even = _mm256_fmadd_ps(_mm256_cvtepi32_ps(first), scale_pair(scales + 2 * i), sums.even);
      sums.odd = _mm256_fmadd_ps(_mm256_cvtepi32_ps(second), scale_pair(scales + 2 * i + 2), sums.odd);
    }
    _mm256_storeu_ps(partial, sums.even);
    _mm256_storeu_ps(partial + 8, sums.odd);
  }

  template <typename Format>
  ONGGI_AVX2 static void add_super(const typename Format::Super& super, const DotTask& task, int64_t s,
                                   float (*partials)[unpacked::kPartials]) {
    unpacked::Values values;
    Format::unpack(super, values);
    for (int64_t t = 0; t < task.args.tokens; ++t)
      add<Format>(values, *task.unit<ActivationBlock>(s, t), partials[t]);
  }
};

struct AvxVnniDot {
  template <typename Format>
  ONGGI_AVXVNNI_INLINE static void add(const unpacked::Values& w, const ActivationBlock& x, float* partial) {
    alignas(32) float scales[kSuperSubs];
    Sums sums = begin_sums<Format>(w, x, partial, scales);
    const __m256i zero = _mm256_setzero_si256();
    for (int i = 0; i < 8; i += 2) {
      const __m256i first = _mm256_dpbusd_avx_epi32(zero, load(w.q + 32 * i), load(x.q + 32 * i));
      const __m256i second = _mm256_dpbusd_avx_epi32(zero, load(w.q + 32 * i + 32), load(x.q + 32 * i + 32));
      sums.even = _mm256_fmadd_ps(_mm256_cvtepi32_ps(first), scale_pair(scales + 2 * i), sums.even);
      sums.odd = _mm256_fmadd_ps(_mm256_cvtepi32_ps(second), scale_pair(scales + 2 * i + 2), sums.odd);
    }
    _mm256_storeu_ps(partial, sums.even);
    _mm256_storeu_ps(partial + 8, sums.odd);
  }

  template <typename Format>
  ONGGI_AVXVNNI static void add_super(const typename Format::Super& super, const DotTask& task, int64_t s,
                                      float (*partials)[unpacked::kPartials]) {
    unpacked::Values values;
    Format::unpack(super, values);
    for (int64_t t = 0; t < task.args.tokens; ++t)
      add<Format>(values, *task.unit<ActivationBlock>(s, t), partials[t]);
  }
};

template <typename Format>
ONGGI_AVX2 void prepare(const LinearArgs& args, int64_t t, std::byte* activations) {
  unpacked::prepare<Format>(args, t, activations);
}

template <typename Format>
DotKernel kernel(DotLevel level) {
  return {activation_block_bytes, prepare<Format>, unpacked::scratch_bytes,
          level == DotLevel::kAvxVnni ? unpacked::rows<Format, AvxVnniDot> : unpacked::rows<Format, Avx2Dot>};
}

struct Avx2Float {
  ONGGI_AVX2 static void decode_f16(const uint16_t* in, int64_t count, float* out) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
      _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
    for (; i < count; ++i) out[i] = f16_to_f32(in[i]);
  }
  ONGGI_AVX2 static float dot(const float* w, const float* x, int64_t count) {
    __m256 sums[4] = {};
    int64_t i = 0;
    for (; i + 32 <= count; i += 32)
      for (int j = 0; j < 4; ++j)
        sums[j] = _mm256_fmadd_ps(_mm256_loadu_ps(w + i + 8 * j), _mm256_loadu_ps(x + i + 8 * j), sums[j]);
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
    float sum = 0;
    for (const float lane : lanes) sum += lane;
    for (; i < count; ++i) sum += w[i] * x[i];
    return sum;
  }
};

}  // namespace
}  // namespace avx2

DotKernel avx2_dot_kernel(DType dtype, DotLevel level) {
  switch (dtype) {
    case DType::kQ4_0:
      return avx2::kernel<unpacked::Q4_0>(level);
    case DType::kQ8_0:
      return avx2::kernel<unpacked::Q8_0>(level);
    case DType::kQ2_K:
      return avx2::kernel<unpacked::Q2K>(level);
    case DType::kQ3_K:
      return avx2::kernel<unpacked::Q3K>(level);
    case DType::kQ4_K:
      return avx2::kernel<unpacked::Q4K>(level);
    case DType::kQ5_K:
      return avx2::kernel<unpacked::Q5K>(level);
    case DType::kQ6_K:
      return avx2::kernel<unpacked::Q6K>(level);
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kNF4:
      return {no_activation_bytes, nullptr, decoded::scratch_bytes, decoded::rows<avx2::Avx2Float>};
    default:
      return {};
  }
}

}  // namespace onggi::cpu

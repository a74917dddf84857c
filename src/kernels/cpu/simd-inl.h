// Helpers over Highway for loops of any length. Compiled once per instruction set, hence the guard.
#if defined(ONGGI_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ONGGI_KERNELS_CPU_SIMD_INL_H_
#undef ONGGI_KERNELS_CPU_SIMD_INL_H_
#else
#define ONGGI_KERNELS_CPU_SIMD_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace onggi::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FullTag = hn::ScalableTag<float>;
using SingleTag = hn::CappedTag<float, 1>;

// Calls body(tag, i) for vectors of full width, then for single elements of the rest.
template <typename Body>
HWY_INLINE void for_lanes(int64_t count, const Body& body) {
  const FullTag full;
  const SingleTag single;
  const auto lanes = static_cast<int64_t>(hn::Lanes(full));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) body(full, i);
  for (; i < count; ++i) body(single, i);
}

// Sum of term(tag, i) over all i, in four independent chains.
template <typename Term>
HWY_INLINE float sum_lanes(int64_t count, const Term& term) {
  const FullTag full;
  const SingleTag single;
  const auto lanes = static_cast<int64_t>(hn::Lanes(full));
  auto sum0 = hn::Zero(full), sum1 = sum0, sum2 = sum0, sum3 = sum0;
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    sum0 = hn::Add(sum0, term(full, i));
    sum1 = hn::Add(sum1, term(full, i + lanes));
    sum2 = hn::Add(sum2, term(full, i + 2 * lanes));
    sum3 = hn::Add(sum3, term(full, i + 3 * lanes));
  }
  for (; i + lanes <= count; i += lanes) sum0 = hn::Add(sum0, term(full, i));
  float sum = hn::GetLane(hn::SumOfLanes(full, hn::Add(hn::Add(sum0, sum1), hn::Add(sum2, sum3))));
  for (; i < count; ++i) sum += hn::GetLane(term(single, i));
  return sum;
}

HWY_INLINE float max_lanes(const float* x, int64_t count) {
  const FullTag full;
  const auto lanes = static_cast<int64_t>(hn::Lanes(full));
  auto maximums = hn::Set(full, x[0]);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) maximums = hn::Max(maximums, hn::LoadU(full, x + i));
  float maximum = hn::GetLane(hn::MaxOfLanes(full, maximums));
  for (; i < count; ++i) maximum = HWY_MAX(maximum, x[i]);
  return maximum;
}

// exp(x) for x <= 88: what is below -100 gives 0 (Highway's Exp takes x down to -FLT_MAX).
template <typename D, typename V>
HWY_INLINE V exp_lanes(D d, V x) {
  return hn::Exp(d, x);
}

// 1 / (1 + exp(-x)); the bound keeps exp finite.
template <typename D, typename V>
HWY_INLINE V sigmoid_lanes(D d, V x) {
  const auto one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Min(hn::Neg(x), hn::Set(d, 87.0f)))));
}

}  // namespace onggi::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard

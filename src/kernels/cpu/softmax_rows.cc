#include "kernels/cpu/softmax_rows.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/softmax_rows.cc"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace onggi::cpu::HWY_NAMESPACE {
namespace {

float softmax(float* scores, int64_t visible, int64_t keys) {
  const float maximum = max_lanes(scores, visible);
  const float sum = sum_lanes(visible, [&](auto d, int64_t i) HWY_ATTR {
    const auto e = exp_lanes(d, hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, maximum)));
    hn::StoreU(e, d, scores + i);
    return e;
  });
  const float share = 1.0f / sum;
  for_lanes(visible, [&](auto d, int64_t i) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, scores + i), hn::Set(d, share)), d, scores + i);
  });
  std::fill(scores + visible, scores + keys, 0.0f);
  return maximum + std::log(sum);
}

void softmax_backward(const SoftmaxRowBackwardArgs& args) {
  for_lanes(args.visible, [&](auto d, int64_t i) HWY_ATTR {
    const auto score = hn::LoadU(d, args.scores + i);
    const auto p = exp_lanes(d, hn::Sub(score, hn::Set(d, args.log_sum_exp)));
    hn::StoreU(p, d, args.scores + i);
    hn::StoreU(hn::Mul(p, hn::Sub(hn::LoadU(d, args.dp + i), hn::Set(d, args.delta))), d, args.dp + i);
  });
  std::fill(args.scores + args.visible, args.scores + args.keys, 0.0f);
  std::fill(args.dp + args.visible, args.dp + args.keys, 0.0f);
}

float dot(const float* a, const float* b, int64_t count) {
  return sum_lanes(
      count, [&](auto d, int64_t i) HWY_ATTR { return hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i)); });
}

}  // namespace
}  // namespace onggi::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onggi::cpu {

HWY_EXPORT(softmax);
HWY_EXPORT(softmax_backward);
HWY_EXPORT(dot);

float softmax_row(float* scores, int64_t visible, int64_t keys) {
  return HWY_DYNAMIC_DISPATCH(softmax)(scores, visible, keys);
}

void softmax_row_backward(const SoftmaxRowBackwardArgs& args) {
  HWY_DYNAMIC_DISPATCH(softmax_backward)(args);
}

float dot_row(const float* a, const float* b, int64_t count) {
  return HWY_DYNAMIC_DISPATCH(dot)(a, b, count);
}

}  // namespace onggi::cpu
#endif  // HWY_ONCE

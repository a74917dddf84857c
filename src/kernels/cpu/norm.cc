// RMS normalisation, and the normalisation of heads with rotary embedding.
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/rotary.h"
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norm.cc"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace onggi::cpu::HWY_NAMESPACE {
namespace {

float inverse_rms_of(const float* x, int64_t width, float epsilon) {
  const float squares = sum_lanes(width, [&](auto d, int64_t i) HWY_ATTR {
    const auto value = hn::LoadU(d, x + i);
    return hn::Mul(value, value);
  });
  return static_cast<float>(1.0 / std::sqrt(double{squares} / static_cast<double>(width) + double{epsilon}));
}

void normalize(const float* x, const float* weight, float inverse_rms, int64_t width, float* out) {
  for_lanes(width, [&](auto d, int64_t i) HWY_ATTR {
    const auto value = hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse_rms));
    hn::StoreU(hn::Mul(value, hn::LoadU(d, weight + i)), d, out + i);
  });
}

// dx (+)= r (g - x r^2 mean(g x)), g = dy weight; dy may be dx when overwriting.
struct NormGradient {
  const float* dy;
  const float* x;
  const float* weight;
  float inverse_rms;
  int64_t width;
  float* dx;
  Output output;
};
void norm_gradient(const NormGradient& args) {
  const float products = sum_lanes(args.width, [&](auto d, int64_t i) HWY_ATTR {
    return hn::Mul(hn::Mul(hn::LoadU(d, args.dy + i), hn::LoadU(d, args.weight + i)),
                   hn::LoadU(d, args.x + i));
  });
  const float r = args.inverse_rms;
  const float pull = r * r * r * (products / static_cast<float>(args.width));
  for_lanes(args.width, [&](auto d, int64_t i) HWY_ATTR {
    const auto g = hn::Mul(hn::LoadU(d, args.dy + i), hn::LoadU(d, args.weight + i));
    auto value = hn::Sub(hn::Mul(g, hn::Set(d, r)), hn::Mul(hn::LoadU(d, args.x + i), hn::Set(d, pull)));
    if (args.output == Output::kAccumulate) value = hn::Add(hn::LoadU(d, args.dx + i), value);
    hn::StoreU(value, d, args.dx + i);
  });
}

void rms_norm_rows(const RmsNormArgs& args, int64_t begin, int64_t end) {
  check_dense(args.out_stride, args.width);
  for (int64_t t = begin; t < end; ++t) {
    const float* x = args.x + t * args.width;
    const float inverse_rms = inverse_rms_of(x, args.width, args.epsilon);
    if (args.inverse_rms != nullptr) args.inverse_rms[t] = inverse_rms;
    normalize(x, args.weight, inverse_rms, args.width, args.out + t * args.width);
  }
}

void rms_norm_backward_rows(const RmsNormBackwardArgs& args, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t)
    norm_gradient({.dy = args.dout + t * args.width,
                   .x = args.x + t * args.width,
                   .weight = args.weight,
                   .inverse_rms = args.inverse_rms[t],
                   .width = args.width,
                   .dx = args.dx + t * args.width,
                   .output = args.output});
}

// out = (x[i] cos - x[i + half] sin, x[i + half] cos + x[i] sin); out may be x. sign = -1 turns back.
void rotate(const float* x, const RotaryAngles& angles, int64_t half, float sign, float* out) {
  for_lanes(half, [&](auto d, int64_t i) HWY_ATTR {
    const auto cosine = hn::LoadU(d, angles.cosine + i);
    const auto sine = hn::Mul(hn::LoadU(d, angles.sine + i), hn::Set(d, sign));
    const auto first = hn::LoadU(d, x + i), second = hn::LoadU(d, x + i + half);
    hn::StoreU(hn::Sub(hn::Mul(first, cosine), hn::Mul(second, sine)), d, out + i);
    hn::StoreU(hn::Add(hn::Mul(second, cosine), hn::Mul(first, sine)), d, out + i + half);
  });
}

// The heads of one token.
void head_norm_rope_token(const HeadNormRopeArgs& args, int64_t t, const RotaryAngles& angles) {
  for (int64_t row = t * args.heads; row < (t + 1) * args.heads; ++row) {
    const float* x = args.x + row * args.head_dim;
    float* out = args.out + row * args.head_dim;
    float inverse_rms = 1.0f;
    if (args.weight != nullptr) {
      inverse_rms = inverse_rms_of(x, args.head_dim, args.epsilon);
      normalize(x, args.weight, inverse_rms, args.head_dim, out);
      x = out;
    }
    rotate(x, angles, args.head_dim / 2, 1.0f, out);
    if (args.inverse_rms != nullptr) args.inverse_rms[row] = inverse_rms;
  }
}

void head_norm_rope_backward_token(const HeadNormRopeBackwardArgs& args, int64_t t,
                                   const RotaryAngles& angles) {
  for (int64_t row = t * args.heads; row < (t + 1) * args.heads; ++row) {
    float* dx = args.dx + row * args.head_dim;
    rotate(args.dout + row * args.head_dim, angles, args.head_dim / 2, -1.0f, dx);
    if (args.weight == nullptr) continue;
    norm_gradient({.dy = dx,
                   .x = args.x + row * args.head_dim,
                   .weight = args.weight,
                   .inverse_rms = args.inverse_rms[row],
                   .width = args.head_dim,
                   .dx = dx,
                   .output = Output::kOverwrite});
  }
}

}  // namespace
}  // namespace onggi::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onggi::cpu {

HWY_EXPORT(rms_norm_rows);
HWY_EXPORT(rms_norm_backward_rows);
HWY_EXPORT(head_norm_rope_token);
HWY_EXPORT(head_norm_rope_backward_token);

namespace {
// Rows of `width` elements below which waking another thread costs more than it saves.
int64_t grain_of(int64_t width) { return std::max<int64_t>(1, 16384 / width); }
}  // namespace

void rms_norm(const OpContext& context, const RmsNormArgs& args) {
  context.threads.parallel_for(args.tokens, grain_of(args.width), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(rms_norm_rows)(args, begin, end);
  });
}

void rms_norm_backward(const OpContext& context, const RmsNormBackwardArgs& args) {
  check_dense(args.dx_stride, args.width);
  context.threads.parallel_for(args.tokens, grain_of(args.width), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(rms_norm_backward_rows)(args, begin, end);
  });
}

void head_norm_rope(const OpContext& context, const HeadNormRopeArgs& args) {
  context.threads.parallel_for(
      args.tokens, grain_of(args.heads * args.head_dim), [&](int64_t begin, int64_t end, int thread) {
        Rotary rotary(args.head_dim / 2, args.theta,
                      context.scratch.get(thread, Rotary::scratch_bytes(args.head_dim / 2)));
        for (int64_t t = begin; t < end; ++t)
          HWY_DYNAMIC_DISPATCH(head_norm_rope_token)(args, t, rotary.angles(args.positions[t]));
      });
}

void head_norm_rope_backward(const OpContext& context, const HeadNormRopeBackwardArgs& args) {
  check_dense(args.dx_stride, args.heads * args.head_dim);
  context.threads.parallel_for(
      args.tokens, grain_of(args.heads * args.head_dim), [&](int64_t begin, int64_t end, int thread) {
        Rotary rotary(args.head_dim / 2, args.theta,
                      context.scratch.get(thread, Rotary::scratch_bytes(args.head_dim / 2)));
        for (int64_t t = begin; t < end; ++t)
          HWY_DYNAMIC_DISPATCH(head_norm_rope_backward_token)(args, t, rotary.angles(args.positions[t]));
      });
}

}  // namespace onggi::cpu
#endif  // HWY_ONCE

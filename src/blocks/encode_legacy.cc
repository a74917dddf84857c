// Q8_0 and Q4_0: blocks of 32 with one f16 scale.
#include <algorithm>
#include <array>
#include <cmath>

#include "blocks/encode.h"
#include "blocks/lanes.h"
#include "blocks/weights.h"

namespace onggi {
namespace {

constexpr int kN = 32;

ONGGI_TARGET_CLONES
void encode_q8_0(const float* values, int64_t blocks, BlockQ8_0* out) {
  for (int64_t b = 0; b < blocks; ++b, values += kN) {
    float largest = 0;
    for (int i = 0; i < kN; ++i) largest = std::max(largest, std::fabs(values[i]));
    const float d = largest / 127.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    out[b].d = scale_to_f16(d);
    // Halves go away from zero, as in ggml.
    for (int i = 0; i < kN; ++i) {
      const float scaled = values[i] * inverse;
      out[b].qs[i] = static_cast<int8_t>(static_cast<int>(scaled + (scaled < 0 ? -0.5f : 0.5f)));
    }
  }
}

// Eight blocks at a time, one per lane.
struct Q4Blocks {
  F32x8 x[kN];
  F32x8 w[kN];
};

struct Q4Fit {
  F32x8 scale;
  F32x8 error;
};

ONGGI_ALWAYS_INLINE F32x8 quantize(const F32x8& x, const F32x8& inverse) {
  return clamp(nearest(x * inverse), -8, 7);
}

// The best scale for the indices that `inverse` gives (weighted least squares), in f16, and the error with
// the indices that this scale in turn gives.
ONGGI_ALWAYS_INLINE Q4Fit try_inverse(const Q4Blocks& blocks, const F32x8& inverse) {
  F32x8 xq{}, qq{};
  for (int i = 0; i < kN; ++i) {
    const F32x8 q = quantize(blocks.x[i], inverse);
    xq += blocks.w[i] * blocks.x[i] * q;
    qq += blocks.w[i] * q * q;
  }
  Q4Fit fit{round_to_f16(xq * inverse_or_zero(qq)), F32x8{}};
  const F32x8 back = inverse_or_zero(fit.scale);
  for (int i = 0; i < kN; ++i) {
    const F32x8 difference = fit.scale * quantize(blocks.x[i], back) - blocks.x[i];
    fit.error += blocks.w[i] * difference * difference;
  }
  return fit;
}

ONGGI_TARGET_CLONES
void encode_q4_0(const float* values, const float* weights, int count, BlockQ4_0* out) {
  Q4Blocks blocks{};
  F32x8 extreme{};
  for (int lane = 0; lane < count; ++lane) {
    for (int i = 0; i < kN; ++i) {
      const float x = values[lane * kN + i];
      blocks.x[i][lane] = x;
      blocks.w[i][lane] = weights[lane * kN + i];
      if (std::fabs(x) > std::fabs(extreme[lane])) extreme[lane] = x;
    }
  }
  // The value of largest magnitude lands on -8 (the side with one step more) or on 7, or a little beyond:
  // then it is clipped and the others are finer.
  constexpr std::array<float, 24> kTargets = {-8.0f, -7.0f, -7.2f, -7.4f, -7.6f, -7.8f, -8.2f, -8.4f,
                                              -8.6f, -8.8f, -9.0f, -9.3f, -9.6f, 6.4f,  6.6f,  6.8f,
                                              7.0f,  7.2f,  7.4f,  7.6f,  7.8f,  8.0f,  8.4f,  8.8f};
  const F32x8 unit = inverse_or_zero(extreme);
  Q4Fit best = try_inverse(blocks, kTargets[0] * unit);
  for (size_t t = 1; t < kTargets.size(); ++t) {
    const Q4Fit fit = try_inverse(blocks, kTargets[t] * unit);
    const I32x8 better = fit.error < best.error;
    best = {select(better, fit.scale, best.scale), select(better, fit.error, best.error)};
  }
  for (int round = 0; round < 3; ++round) {
    const Q4Fit fit = try_inverse(blocks, inverse_or_zero(best.scale));
    const I32x8 better = fit.error < best.error;
    best = {select(better, fit.scale, best.scale), select(better, fit.error, best.error)};
  }
  for (int lane = 0; lane < kLanes; ++lane) best.scale[lane] = as_stored(best.scale[lane]);
  const F32x8 inverse = inverse_or_zero(best.scale);
  for (int i = 0; i < kN; ++i) blocks.x[i] = quantize(blocks.x[i], inverse) + 8.0f;
  for (int lane = 0; lane < count; ++lane) {
    out[lane].d = scale_to_f16(best.scale[lane]);
    for (int i = 0; i < 16; ++i) {
      out[lane].qs[i] = static_cast<uint8_t>(static_cast<int>(blocks.x[i][lane]) |
                                             static_cast<int>(blocks.x[i + 16][lane]) << 4);
    }
  }
}

}  // namespace

void encode_row(const float* values, int64_t elements, const float*, BlockQ8_0* out) {
  encode_q8_0(values, elements / kN, out);
}

void encode_row(const float* values, int64_t elements, const float* importance, BlockQ4_0* out) {
  float weights[kLanes * kN];
  for (int64_t begin = 0; begin < elements; begin += kLanes * kN) {
    const int count = static_cast<int>(std::min<int64_t>(kLanes, (elements - begin) / kN));
    for (int b = 0; b < count; ++b) {
      const int64_t at = begin + b * kN;
      if (importance != nullptr) {
        importance_weights(values + at, importance + at, kN, weights + b * kN);
      } else {
        std::fill_n(weights + b * kN, kN, 1.0f);
      }
    }
    encode_q4_0(values + begin, weights, count, out + begin / kN);
  }
}

}  // namespace onggi

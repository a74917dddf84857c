// The search behind Q2_K, Q4_K and Q5_K: value = d * scale * q - dmin * minimum, with q in 0 .. kLevels and
// integer scales and minimums in 0 .. kScales per sub-block of kN values.
//
// 1. Each sub-block alone: real scale and minimum by weighted least squares, over a grid of starting scales.
// 2. The super-block: d and dmin from the largest of them, rounded to f16; for each sub-block the best of the
// nine
//    integer pairs around its own optimum, with the error measured on what a decoder will see.
// 3. With these integers fixed, d and dmin again by least squares; 2 and 3 repeat while the error falls.
#pragma once

#include <array>

#include "blocks/lanes.h"

namespace onggi {

// kGroups * 8 sub-blocks, one per lane.
template <int kN, int kGroups>
struct SubBlocks {
  F32x8 x[kGroups][kN];
  F32x8 w[kGroups][kN];
};

// Spreads 256 values and weights over the lanes.
template <int kN, int kGroups>
ONGGI_ALWAYS_INLINE void load_sub_blocks(const float* x, const float* w, SubBlocks<kN, kGroups>& out) {
  for (int group = 0; group < kGroups; ++group) {
    for (int i = 0; i < kN; ++i) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const int at = (group * kLanes + lane) * kN + i;
        out.x[group][i][lane] = x[at];
        out.w[group][i][lane] = w[at];
      }
    }
  }
}

// What an encoder writes.
template <int kN>
struct AffineResult {
  float d;
  float dmin;
  uint8_t scale[256 / kN];
  uint8_t minimum[256 / kN];
  uint8_t q[256];
};

template <int kN, int kLevels, int kScales>
class AffineSearch {
 public:
  static constexpr int kGroups = 256 / kN / kLanes;
  using Blocks = SubBlocks<kN, kGroups>;

  ONGGI_ALWAYS_INLINE static void run(const Blocks& blocks, AffineResult<kN>& result) {
    Real real[kGroups];
    float top_scale = 0, top_minimum = 0;
    for (int g = 0; g < kGroups; ++g) {
      real[g] = fit_sub_blocks(blocks.x[g], blocks.w[g]);
      for (int lane = 0; lane < kLanes; ++lane) {
        top_scale = std::max(top_scale, real[g].scale[lane]);
        top_minimum = std::max(top_minimum, real[g].minimum[lane]);
      }
    }
    Candidate best =
        fit_integers(blocks, real, as_stored(top_scale / kScales), as_stored(top_minimum / kScales));
    for (int round = 0; round < kRounds; ++round) {
      const Candidate next = improve(blocks, real, best);
      if (!(next.error < best.error)) break;
      best = next;
    }
    write(blocks, best, result);
  }

 private:
  static constexpr int kRounds = 4;

  struct Real {
    F32x8 scale;    // >= 0
    F32x8 minimum;  // >= 0, subtracted
  };
  struct Candidate {
    float d, dmin;
    F32x8 scale[kGroups], minimum[kGroups];  // integers
    float error;
  };

  ONGGI_ALWAYS_INLINE static F32x8 quantize(const F32x8& x, const F32x8& minimum, const F32x8& inverse) {
    return clamp(nearest((x + minimum) * inverse), 0, kLevels);
  }

  struct Sums {
    F32x8 w, x, xx;
  };

  // Least squares of x = scale * q - minimum for the q of the given scale and minimum, and the error it has.
  ONGGI_ALWAYS_INLINE static F32x8 refit(const F32x8* x, const F32x8* w, const Sums& sums, const Real& from,
                                         Real& to) {
    const F32x8 inverse = inverse_or_zero(from.scale);
    F32x8 q_sum{}, qq_sum{}, xq_sum{};
    for (int i = 0; i < kN; ++i) {
      const F32x8 q = quantize(x[i], from.minimum, inverse);
      const F32x8 wq = w[i] * q;
      q_sum += wq;
      qq_sum += wq * q;
      xq_sum += wq * x[i];
    }
    const F32x8 determinant = sums.w * qq_sum - q_sum * q_sum;
    const I32x8 regular = determinant > 0.0f;
    const F32x8 inverse_determinant =
        select(regular, 1.0f / select(regular, determinant, splat(1.0f)), F32x8{});
    F32x8 scale = (sums.w * xq_sum - sums.x * q_sum) * inverse_determinant;
    F32x8 minimum = (q_sum * xq_sum - qq_sum * sums.x) * inverse_determinant;
    // A minimum below 0 cannot be stored: the best without one. Where all q are 0, the best minimum alone.
    const I32x8 bounded = (minimum < 0.0f) | (determinant <= 0.0f);
    scale = select(bounded, xq_sum * inverse_or_zero(qq_sum), scale);
    const F32x8 alone = select(qq_sum == 0.0f, larger(-sums.x * inverse_or_zero(sums.w), F32x8{}), F32x8{});
    minimum = select(bounded, alone, minimum);
    to = {larger(scale, F32x8{}), minimum};
    return sums.xx - to.scale * xq_sum + to.minimum * sums.x +
           (to.scale * (to.scale * qq_sum - to.minimum * q_sum - xq_sum) +
            to.minimum * (to.minimum * sums.w - to.scale * q_sum + sums.x));
  }

  ONGGI_ALWAYS_INLINE static Real fit_sub_blocks(const F32x8* x, const F32x8* w) {
    F32x8 low{}, high = x[0];
    Sums sums{};
    for (int i = 0; i < kN; ++i) {
      low = smaller(low, x[i]);
      high = larger(high, x[i]);
      sums.w += w[i];
      sums.x += w[i] * x[i];
      sums.xx += w[i] * x[i] * x[i];
    }
    const F32x8 range = larger(high - low, F32x8{});
    Real best{F32x8{}, F32x8{}};
    F32x8 best_error = sums.xx;
    const auto consider = [&](const Real& start) __attribute__((always_inline)) {
      Real fit;
      const F32x8 error = refit(x, w, sums, start, fit);
      const I32x8 better = error < best_error;
      best.scale = select(better, fit.scale, best.scale);
      best.minimum = select(better, fit.minimum, best.minimum);
      best_error = select(better, error, best_error);
    };
    // From a range a little too small (ends clipped) to one that leaves the end levels unused.
    for (int step = 0; step < kSteps; ++step) {
      const float levels = kLevels + kFirst + kStep * static_cast<float>(step);
      consider({range / levels, -low});
    }
    for (int round = 0; round < 3; ++round) consider(Real(best));
    return best;
  }
  static constexpr float kFirst = kLevels > 3 ? -1.0f : -0.9f;
  static constexpr float kStep = kLevels > 3 ? 0.15f : 0.1f;
  static constexpr int kSteps = kLevels > 3 ? 18 : 20;

  // The best integers for given d and dmin.
  ONGGI_ALWAYS_INLINE static Candidate fit_integers(const Blocks& blocks, const Real* real, float d,
                                                    float dmin) {
    Candidate candidate{d, dmin, {}, {}, 0};
    for (int g = 0; g < kGroups; ++g) {
      const F32x8 scale = clamp(nearest(real[g].scale * (d > 0 ? 1 / d : 0.0f)), 0, kScales);
      const F32x8 minimum = clamp(nearest(real[g].minimum * (dmin > 0 ? 1 / dmin : 0.0f)), 0, kScales);
      F32x8 best_error = splat(__builtin_inff());
      for (int ds = -1; ds <= 1; ++ds) {
        const F32x8 s = clamp(scale + static_cast<float>(ds), 0, kScales);
        const F32x8 step = s * d;
        const F32x8 inverse = inverse_or_zero(step);
        for (int dm = -1; dm <= 1; ++dm) {
          const F32x8 m = clamp(minimum + static_cast<float>(dm), 0, kScales);
          const F32x8 offset = m * dmin;
          F32x8 error{};
          for (int i = 0; i < kN; ++i) {
            const F32x8 difference =
                step * quantize(blocks.x[g][i], offset, inverse) - offset - blocks.x[g][i];
            error += blocks.w[g][i] * difference * difference;
          }
          const I32x8 better = error < best_error;
          candidate.scale[g] = select(better, s, candidate.scale[g]);
          candidate.minimum[g] = select(better, m, candidate.minimum[g]);
          best_error = select(better, error, best_error);
        }
      }
      candidate.error += sum_lanes(best_error);
    }
    return candidate;
  }

  // d and dmin by least squares for the integers of `from`, then the best integers for them.
  ONGGI_ALWAYS_INLINE static Candidate improve(const Blocks& blocks, const Real* real,
                                               const Candidate& from) {
    F32x8 aa{}, ab{}, bb{}, ax{}, bx{};  // a = scale * q, b = -minimum
    for (int g = 0; g < kGroups; ++g) {
      const F32x8 inverse = inverse_or_zero(from.scale[g] * from.d);
      const F32x8 offset = from.minimum[g] * from.dmin;
      const F32x8 b = -from.minimum[g];
      for (int i = 0; i < kN; ++i) {
        const F32x8 a = from.scale[g] * quantize(blocks.x[g][i], offset, inverse);
        const F32x8 wa = blocks.w[g][i] * a, wb = blocks.w[g][i] * b;
        aa += wa * a;
        ab += wa * b;
        bb += wb * b;
        ax += wa * blocks.x[g][i];
        bx += wb * blocks.x[g][i];
      }
    }
    const double a2 = sum_lanes(aa), cross = sum_lanes(ab), b2 = sum_lanes(bb), xa = sum_lanes(ax),
                 xb = sum_lanes(bx);
    const double determinant = a2 * b2 - cross * cross;
    double d = a2 > 0 ? xa / a2 : 0, dmin = 0;
    if (determinant > 1e-9 * a2 * b2) {
      d = (b2 * xa - cross * xb) / determinant;
      dmin = (a2 * xb - cross * xa) / determinant;
    }
    if (!(d > 0) || !(dmin >= 0)) return from;
    return fit_integers(blocks, real, as_stored(static_cast<float>(d)), as_stored(static_cast<float>(dmin)));
  }

  ONGGI_ALWAYS_INLINE static void write(const Blocks& blocks, const Candidate& best,
                                        AffineResult<kN>& result) {
    result.d = best.d;
    result.dmin = best.dmin;
    for (int g = 0; g < kGroups; ++g) {
      const F32x8 inverse = inverse_or_zero(best.scale[g] * best.d);
      const F32x8 offset = best.minimum[g] * best.dmin;
      for (int lane = 0; lane < kLanes; ++lane) {
        result.scale[g * kLanes + lane] = static_cast<uint8_t>(best.scale[g][lane]);
        result.minimum[g * kLanes + lane] = static_cast<uint8_t>(best.minimum[g][lane]);
      }
      for (int i = 0; i < kN; ++i) {
        const F32x8 q = quantize(blocks.x[g][i], offset, inverse);
        for (int lane = 0; lane < kLanes; ++lane) {
          result.q[(g * kLanes + lane) * kN + i] = static_cast<uint8_t>(q[lane]);
        }
      }
    }
  }
};

}  // namespace onggi

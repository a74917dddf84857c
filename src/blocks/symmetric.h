// The search behind Q3_K and Q6_K: value = d * scale * q with q in -kLevels .. kLevels - 1 and signed integer
// scales in -kScales .. kScales - 1 per sub-block of 16 values. The same three steps as in affine.h.
#pragma once

#include <array>
#include <cmath>

#include "blocks/affine.h"
#include "blocks/lanes.h"

namespace onggi {

struct SymmetricResult {
  float d;
  int8_t scale[16];
  uint8_t q[256];  // + kLevels, so not negative
};

template <int kLevels, int kScales>
class SymmetricSearch {
 public:
  static constexpr int kN = 16;
  static constexpr int kGroups = 2;
  using Blocks = SubBlocks<kN, kGroups>;

  ONGGI_ALWAYS_INLINE static void run(const Blocks& blocks, SymmetricResult& result) {
    F32x8 real[kGroups];
    float extreme = 0;
    for (int g = 0; g < kGroups; ++g) {
      real[g] = fit_sub_blocks(blocks.x[g], blocks.w[g]);
      for (int lane = 0; lane < kLanes; ++lane) {
        if (std::abs(real[g][lane]) > std::abs(extreme)) extreme = real[g][lane];
      }
    }
    // The scale of largest magnitude lands on the side that has one integer more.
    Candidate best = fit_integers(blocks, real, as_stored(-extreme / kScales));
    // Other ends are worth a look where integers are few, and where f16 has few bits left for a tiny d.
    constexpr float kTinyScale = 0x1p-19f;
    if (kScales <= 32 || std::abs(best.d) < kTinyScale) {
      for (const float end : kEnds) {
        const Candidate other = fit_integers(blocks, real, as_stored(-extreme / end));
        if (other.error < best.error) best = other;
      }
    }
    for (int round = 0; round < 4; ++round) {
      const Candidate next = improve(blocks, real, best);
      if (!(next.error < best.error)) break;
      best = next;
    }
    write(blocks, best, result);
  }

 private:
  static constexpr std::array<float, 5> kEnds =
      kScales <= 32 ? std::array<float, 5>{kScales - 1.5f, kScales - 1.0f, kScales - 0.5f, kScales + 0.5f,
                                           kScales + 1.0f}
                    : std::array<float, 5>{kScales - 6.0f, kScales - 13.0f, kScales - 21.0f, kScales - 32.0f,
                                           kScales - 48.0f};

  struct Candidate {
    float d;
    F32x8 scale[kGroups];  // integers
    float error;
  };

  ONGGI_ALWAYS_INLINE static F32x8 quantize(const F32x8& x, const F32x8& inverse) {
    return clamp(nearest(x * inverse), -kLevels, kLevels - 1);
  }

  ONGGI_ALWAYS_INLINE static F32x8 error_of(const F32x8* x, const F32x8* w, const F32x8& scale) {
    const F32x8 inverse = inverse_or_zero(scale);
    F32x8 error{};
    for (int i = 0; i < kN; ++i) {
      const F32x8 difference = scale * quantize(x[i], inverse) - x[i];
      error += w[i] * difference * difference;
    }
    return error;
  }

  ONGGI_ALWAYS_INLINE static F32x8 fit_sub_blocks(const F32x8* x, const F32x8* w) {
    F32x8 extreme{}, magnitude{};
    for (int i = 0; i < kN; ++i) {
      const F32x8 size = larger(x[i], -x[i]);
      const I32x8 beyond = size > magnitude;
      extreme = select(beyond, x[i], extreme);
      magnitude = larger(magnitude, size);
    }
    // The error of the least-squares scale for given q is xx - xq^2 / qq, so the best has the largest xq^2 /
    // qq.
    F32x8 best{}, best_gain{};
    const auto consider = [&](const F32x8& inverse) __attribute__((always_inline)) {
      F32x8 xq{}, qq{};
      for (int i = 0; i < kN; ++i) {
        const F32x8 q = quantize(x[i], inverse);
        const F32x8 wq = w[i] * q;
        xq += wq * x[i];
        qq += wq * q;
      }
      const F32x8 scale = xq * inverse_or_zero(qq);
      const I32x8 better = scale * xq > best_gain;
      best = select(better, scale, best);
      best_gain = select(better, scale * xq, best_gain);
    };
    const F32x8 unit = inverse_or_zero(extreme);
    for (int step = 0; step < kSteps; ++step) {
      const float end = kLevels + kFirst + kStep * static_cast<float>(step);
      consider(-end * unit);          // the extreme value on the longer side
      consider((end - 1.0f) * unit);  // or on the other
    }
    for (int round = 0; round < 3; ++round) consider(inverse_or_zero(best));
    return best;
  }
  static constexpr float kFirst = kLevels > 4 ? -1.0f : -0.9f;
  static constexpr float kStep = kLevels > 4 ? 0.16f : 0.12f;
  static constexpr int kSteps = kLevels > 4 ? 14 : 16;

  ONGGI_ALWAYS_INLINE static Candidate fit_integers(const Blocks& blocks, const F32x8* real, float d) {
    Candidate candidate{d, {}, 0};
    const float inverse = d != 0 ? 1 / d : 0.0f;
    for (int g = 0; g < kGroups; ++g) {
      const F32x8 centre = clamp(nearest(real[g] * inverse), -kScales, kScales - 1);
      F32x8 best_error = splat(__builtin_inff());
      for (int step = -1; step <= 1; ++step) {
        const F32x8 scale = clamp(centre + static_cast<float>(step), -kScales, kScales - 1);
        const F32x8 error = error_of(blocks.x[g], blocks.w[g], scale * d);
        const I32x8 better = error < best_error;
        candidate.scale[g] = select(better, scale, candidate.scale[g]);
        best_error = select(better, error, best_error);
      }
      candidate.error += sum_lanes(best_error);
    }
    return candidate;
  }

  ONGGI_ALWAYS_INLINE static Candidate improve(const Blocks& blocks, const F32x8* real,
                                               const Candidate& from) {
    F32x8 aa{}, ax{};
    for (int g = 0; g < kGroups; ++g) {
      const F32x8 inverse = inverse_or_zero(from.scale[g] * from.d);
      for (int i = 0; i < kN; ++i) {
        const F32x8 a = from.scale[g] * quantize(blocks.x[g][i], inverse);
        aa += blocks.w[g][i] * a * a;
        ax += blocks.w[g][i] * a * blocks.x[g][i];
      }
    }
    const float a2 = sum_lanes(aa);
    if (!(a2 > 0)) return from;
    return fit_integers(blocks, real, as_stored(sum_lanes(ax) / a2));
  }

  ONGGI_ALWAYS_INLINE static void write(const Blocks& blocks, const Candidate& best,
                                        SymmetricResult& result) {
    result.d = best.d;
    for (int g = 0; g < kGroups; ++g) {
      const F32x8 inverse = inverse_or_zero(best.scale[g] * best.d);
      for (int lane = 0; lane < kLanes; ++lane) {
        result.scale[g * kLanes + lane] = static_cast<int8_t>(best.scale[g][lane]);
      }
      for (int i = 0; i < kN; ++i) {
        const F32x8 q = quantize(blocks.x[g][i], inverse) + static_cast<float>(kLevels);
        for (int lane = 0; lane < kLanes; ++lane) {
          result.q[(g * kLanes + lane) * kN + i] = static_cast<uint8_t>(q[lane]);
        }
      }
    }
  }
};

}  // namespace onggi

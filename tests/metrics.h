// The one definition of every measure by which tests compare numbers.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <span>
#include <string>

namespace onggi {

// ||actual - expected|| / ||expected|| in the Euclidean norm; the norm of actual where expected is zero.
inline double relative_norm_error(std::span<const float> actual, std::span<const float> expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (double{actual[i]} - expected[i]) * (double{actual[i]} - expected[i]);
    norm += double{expected[i]} * expected[i];
  }
  return std::sqrt(norm > 0 ? difference / norm : difference);
}

// The element that exceeds its allowance |actual - expected| <= allowed(i) by the largest factor.
struct WorstElement {
  size_t index = 0;
  double factor = 0;  // error / allowance; infinite for what is not finite
};
template <typename Allowed>
WorstElement worst_element(std::span<const float> actual, std::span<const float> expected,
                           const Allowed& allowed) {
  WorstElement worst;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::abs(double{actual[i]} - expected[i]);
    double factor = error == 0 ? 0 : error / allowed(i);
    if (std::isnan(factor)) factor = HUGE_VAL;
    if (factor > worst.factor) worst = {i, factor};
  }
  return worst;
}

// Passes when every element is within its allowance; else tells the worst one.
template <typename Allowed>
testing::AssertionResult within(std::span<const float> actual, std::span<const float> expected,
                                const Allowed& allowed) {
  if (actual.size() != expected.size())
    return testing::AssertionFailure() << actual.size() << " elements instead of " << expected.size();
  const WorstElement worst = worst_element(actual, expected, allowed);
  if (worst.factor <= 1) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "element " << worst.index << " is " << actual[worst.index]
                                     << " instead of " << expected[worst.index] << ", allowed are +-"
                                     << allowed(worst.index) << "; relative error of all " << expected.size()
                                     << ": " << relative_norm_error(actual, expected);
}

// Passes when the relative norm error is at most `limit`.
inline testing::AssertionResult close_in_norm(std::span<const float> actual, std::span<const float> expected,
                                              double limit) {
  if (actual.size() != expected.size())
    return testing::AssertionFailure() << actual.size() << " elements instead of " << expected.size();
  const double error = relative_norm_error(actual, expected);
  if (error <= limit) return testing::AssertionSuccess();
  const WorstElement worst = worst_element(actual, expected, [](size_t) { return 1.0; });
  return testing::AssertionFailure() << "relative error " << error << " > " << limit << "; worst element "
                                     << worst.index << " is " << actual[worst.index] << " instead of "
                                     << expected[worst.index];
}

// Rounding units: the largest relative error of rounding to nearest.
inline constexpr double kUnitF32 = 0x1p-24;
inline constexpr double kUnitBf16 = 0x1p-8;
inline constexpr double kUnitF16 = 0x1p-11;

}  // namespace onggi

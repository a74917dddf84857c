#include "infer/softmax.h"

#include <limits>

namespace onggi {
namespace {

constexpr size_t kLanes = 32;
// Floats are summed per lane over this many rounds, then in double: the error of a lane stays near 1e-6.
constexpr size_t kRounds = 64;

}  // namespace

float max_of(std::span<const float> values) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = -std::numeric_limits<float>::infinity();
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
  }
  for (; i < values.size(); ++i) lanes[0] = values[i] > lanes[0] ? values[i] : lanes[0];
  float best = lanes[0];
  for (float lane : lanes) best = lane > best ? lane : best;
  return best;
}

double sum_of_exp(std::span<const float> values, float shift, float factor) {
  double total = 0;
  size_t i = 0;
  while (i + kLanes <= values.size()) {
    float lanes[kLanes] = {};
    for (size_t round = 0; round < kRounds && i + kLanes <= values.size(); ++round, i += kLanes) {
      for (size_t j = 0; j < kLanes; ++j) lanes[j] += exp_of_negative((values[i + j] - shift) * factor);
    }
    for (float lane : lanes) total += lane;
  }
  for (; i < values.size(); ++i) total += exp_of_negative((values[i] - shift) * factor);
  return total;
}

}  // namespace onggi

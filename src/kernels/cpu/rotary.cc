#include "kernels/cpu/rotary.h"

#include <cmath>

namespace onggi::cpu {

size_t Rotary::scratch_bytes(int64_t half) {
  return static_cast<size_t>(half) * (5 * sizeof(double) + 2 * sizeof(float));
}

Rotary::Rotary(int64_t half, double theta, std::byte* scratch) : half_(half) {
  auto* doubles = reinterpret_cast<double*>(scratch);
  frequency_ = doubles;
  step_cosine_ = doubles + half;
  step_sine_ = doubles + 2 * half;
  cosine_ = doubles + 3 * half;
  sine_ = doubles + 4 * half;
  cosine_f32_ = reinterpret_cast<float*>(doubles + 5 * half);
  sine_f32_ = cosine_f32_ + half;
  const double ratio = std::pow(theta, -1.0 / static_cast<double>(half));
  double frequency = 1.0;
  for (int64_t i = 0; i < half; ++i) {
    frequency_[i] = frequency;
    frequency *= ratio;
  }
}

void Rotary::restart(int32_t position) {
  for (int64_t i = 0; i < half_; ++i) {
    const double angle = static_cast<double>(position) * frequency_[i];
    cosine_[i] = std::cos(angle);
    sine_[i] = std::sin(angle);
  }
  steps_ = 0;
}

void Rotary::step() {
  if (steps_ == 0)  // the first step since a restart
    for (int64_t i = 0; i < half_; ++i) {
      step_cosine_[i] = std::cos(frequency_[i]);
      step_sine_[i] = std::sin(frequency_[i]);
    }
  for (int64_t i = 0; i < half_; ++i) {
    const double cosine = cosine_[i] * step_cosine_[i] - sine_[i] * step_sine_[i];
    sine_[i] = sine_[i] * step_cosine_[i] + cosine_[i] * step_sine_[i];
    cosine_[i] = cosine;
  }
  ++steps_;
}

RotaryAngles Rotary::angles(int32_t position) {
  constexpr int kMostSteps = 64;
  if (position == next_position_ && steps_ < kMostSteps) {
    step();
  } else {
    restart(position);
  }
  next_position_ = int64_t{position} + 1;
  for (int64_t i = 0; i < half_; ++i) {
    cosine_f32_[i] = static_cast<float>(cosine_[i]);
    sine_f32_[i] = static_cast<float>(sine_[i]);
  }
  return {cosine_f32_, sine_f32_};
}

}  // namespace onggi::cpu

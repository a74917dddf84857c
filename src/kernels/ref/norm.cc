#include <cmath>
#include <vector>

#include "kernels/ref/ref.h"

namespace onggi::ref {
namespace {

double inverse_rms_of(const float* x, int64_t width, float epsilon) {
  double squares = 0;
  for (int64_t c = 0; c < width; ++c) squares += double{x[c]} * x[c];
  return 1.0 / std::sqrt(squares / static_cast<double>(width) + double{epsilon});
}

// y = x r w with r = 1 / sqrt(mean x^2 + epsilon) gives, for g = dy w:
//   dx = r (g - x r^2 mean(g x))
void norm_backward(const double* dy, const float* x, const float* weight, double inverse_rms, int64_t width,
                   double* dx) {
  double mean = 0;
  for (int64_t c = 0; c < width; ++c) mean += dy[c] * weight[c] * x[c];
  mean /= static_cast<double>(width);
  for (int64_t c = 0; c < width; ++c)
    dx[c] = inverse_rms * (dy[c] * weight[c] - x[c] * inverse_rms * inverse_rms * mean);
}

double angle_of(int32_t position, int64_t pair, int64_t head_dim, double theta) {
  const double exponent = -2.0 * static_cast<double>(pair) / static_cast<double>(head_dim);
  return static_cast<double>(position) * std::pow(theta, exponent);
}

}  // namespace

void rms_norm(const OpContext&, const RmsNormArgs& args) {
  check_dense(args.out_stride, args.width);
  for (int64_t t = 0; t < args.tokens; ++t) {
    const float* x = args.x + t * args.width;
    const double inverse_rms = inverse_rms_of(x, args.width, args.epsilon);
    for (int64_t c = 0; c < args.width; ++c)
      args.out[t * args.width + c] = static_cast<float>(x[c] * inverse_rms * args.weight[c]);
    if (args.inverse_rms != nullptr) args.inverse_rms[t] = static_cast<float>(inverse_rms);
  }
}

void rms_norm_backward(const OpContext&, const RmsNormBackwardArgs& args) {
  check_dense(args.dx_stride, args.width);
  std::vector<double> dy(static_cast<size_t>(args.width)), gradient(dy.size());
  for (int64_t t = 0; t < args.tokens; ++t) {
    const int64_t row = t * args.width;
    for (int64_t c = 0; c < args.width; ++c) dy[static_cast<size_t>(c)] = args.dout[row + c];
    norm_backward(dy.data(), args.x + row, args.weight, args.inverse_rms[t], args.width, gradient.data());
    for (int64_t c = 0; c < args.width; ++c) {
      const double value = gradient[static_cast<size_t>(c)];
      float& dx = args.dx[row + c];
      dx = static_cast<float>(args.output == Output::kAccumulate ? dx + value : value);
    }
  }
}

void head_norm_rope(const OpContext&, const HeadNormRopeArgs& args) {
  const int64_t half = args.head_dim / 2;
  std::vector<double> y(static_cast<size_t>(args.head_dim));
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t row = (t * args.heads + h) * args.head_dim;
      double inverse_rms = 1.0;
      if (args.weight != nullptr) inverse_rms = inverse_rms_of(args.x + row, args.head_dim, args.epsilon);
      for (int64_t i = 0; i < args.head_dim; ++i)
        y[static_cast<size_t>(i)] =
            args.x[row + i] * inverse_rms * (args.weight != nullptr ? args.weight[i] : 1.0f);
      for (int64_t i = 0; i < half; ++i) {
        const double angle = angle_of(args.positions[t], i, args.head_dim, args.theta);
        const double first = y[static_cast<size_t>(i)], second = y[static_cast<size_t>(i + half)];
        args.out[row + i] = static_cast<float>(first * std::cos(angle) - second * std::sin(angle));
        args.out[row + i + half] = static_cast<float>(second * std::cos(angle) + first * std::sin(angle));
      }
      if (args.inverse_rms != nullptr) args.inverse_rms[t * args.heads + h] = static_cast<float>(inverse_rms);
    }
}

void head_norm_rope_backward(const OpContext&, const HeadNormRopeBackwardArgs& args) {
  check_dense(args.dx_stride, args.heads * args.head_dim);
  const int64_t half = args.head_dim / 2;
  std::vector<double> dy(static_cast<size_t>(args.head_dim)), gradient(dy.size());
  for (int64_t t = 0; t < args.tokens; ++t)
    for (int64_t h = 0; h < args.heads; ++h) {
      const int64_t row = (t * args.heads + h) * args.head_dim;
      for (int64_t i = 0; i < half; ++i) {  // the rotation's transpose
        const double angle = angle_of(args.positions[t], i, args.head_dim, args.theta);
        const double first = args.dout[row + i], second = args.dout[row + i + half];
        dy[static_cast<size_t>(i)] = first * std::cos(angle) + second * std::sin(angle);
        dy[static_cast<size_t>(i + half)] = second * std::cos(angle) - first * std::sin(angle);
      }
      if (args.weight == nullptr) {
        gradient = dy;
      } else {
        norm_backward(dy.data(), args.x + row, args.weight, args.inverse_rms[t * args.heads + h],
                      args.head_dim, gradient.data());
      }
      for (int64_t i = 0; i < args.head_dim; ++i)
        args.dx[row + i] = static_cast<float>(gradient[static_cast<size_t>(i)]);
    }
}

}  // namespace onggi::ref

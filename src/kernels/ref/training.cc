#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/ref/ref.h"

namespace onggi::ref {

void cross_entropy(const OpContext&, const CrossEntropyArgs& args) {
  for (int64_t m = 0; m < args.rows; ++m) {
    const float* logits = args.logits + m * args.vocabulary;
    const double maximum = *std::max_element(logits, logits + args.vocabulary);
    double sum = 0;
    for (int64_t v = 0; v < args.vocabulary; ++v) sum += std::exp(logits[v] - maximum);
    args.losses[m] = static_cast<float>(maximum + std::log(sum) - logits[args.labels[m]]);
    if (args.loss_sum != nullptr) *args.loss_sum += args.losses[m];
    if (args.dlogits.is_null()) continue;
    for (int64_t v = 0; v < args.vocabulary; ++v) {
      const double probability = std::exp(logits[v] - maximum) / sum;
      const double target = v == args.labels[m] ? 1.0 : 0.0;
      args.dlogits[m * args.vocabulary + v] =
          static_cast<float>(args.gradient_scale * (probability - target));
    }
  }
}

void top_logits(const OpContext&, const TopLogitsArgs& args) {
  std::vector<int32_t> order(static_cast<size_t>(args.vocabulary));
  for (int64_t m = 0; m < args.rows; ++m) {
    const float* logits = args.logits + m * args.vocabulary;
    const auto value = [&](int32_t id) {
      return std::isfinite(logits[id]) ? logits[id] : -std::numeric_limits<float>::infinity();
    };
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return value(a) > value(b); });
    double sum = 0;
    for (int32_t id : order) sum += std::exp(double{value(id)} - value(order[0]));
    args.log_sum_exp[m] = static_cast<float>(value(order[0]) + std::log(sum));
    for (int64_t i = 0; i < args.count; ++i) {
      args.ids[m * args.count + i] = order[static_cast<size_t>(i)];
      args.values[m * args.count + i] = value(order[static_cast<size_t>(i)]);
    }
  }
}

void sum_of_squares(const OpContext&, const SumOfSquaresArgs& args) {
  double sum = 0;
  for (int64_t i = 0; i < args.elements; ++i) sum += double{args.x[i]} * args.x[i];
  *args.sum = sum;
}

void adamw(const OpContext&, const AdamWArgs& args) {
  const double scale = clipping_scale(args);
  const double correction1 = 1.0 - std::pow(double{args.beta1}, static_cast<double>(args.step));
  const double correction2 = 1.0 - std::pow(double{args.beta2}, static_cast<double>(args.step));
  for (int64_t i = 0; i < args.elements; ++i) {
    const double g = double{args.gradient[i]} * scale;
    double w = args.weights[i];
    w -= double{args.learning_rate} * args.weight_decay * w;
    const double m = double{args.beta1} * args.first_moment[i] + (1.0 - args.beta1) * g;
    const double v = double{args.beta2} * args.second_moment[i] + (1.0 - args.beta2) * g * g;
    w -= args.learning_rate / correction1 * m / (std::sqrt(v / correction2) + args.epsilon);
    args.weights[i] = static_cast<float>(w);
    args.first_moment[i] = static_cast<float>(m);
    args.second_moment[i] = static_cast<float>(v);
  }
}

}  // namespace onggi::ref

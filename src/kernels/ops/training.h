// Loss, gradient norm and optimiser.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/ops/activation.h"
#include "kernels/ops/context.h"

namespace onggi {

// losses[m] = log sum exp(logits[m]) - logits[m, labels[m]], in fp32 with the maximum taken out; and, when
// dlogits is given, dlogits[m, v] = gradient_scale * (softmax(logits[m])[v] - [v == labels[m]]).
struct CrossEntropyArgs {
  const float* logits;       // f32 [M, V]
  const int32_t* labels;     // i32 [M], each in [0, V)
  int64_t rows, vocabulary;  // M, V
  float gradient_scale;
  float* losses;     // f32 [M]
  double* loss_sum;  // f64: the losses are added to it, in an order that depends on M alone; null: not wanted
  Activation dlogits;  // [M, V]; may be logits where it is f32; null: loss alone
};

// The largest logits of each row, descending (of equals the smaller id first), and what is needed to turn
// them into probabilities. Values that are not finite count as -infinity.
struct TopLogitsArgs {
  const float* logits;       // f32 [M, V]
  int64_t rows, vocabulary;  // M, V
  int64_t count;             // k, at most kMaxTopLogits
  float* values;             // f32 [M, k]
  int32_t* ids;              // i32 [M, k]
  float* log_sum_exp;        // f32 [M], over the whole row
};
inline constexpr int64_t kMaxTopLogits = 128;

// The sum of squares in fp64, summed in an order that depends on the length alone.
struct SumOfSquaresArgs {
  const float* x;  // f32 [elements]
  int64_t elements;
  double* sum;  // f64, overwritten
};

// Loshchilov and Hutter 2019, as torch.optim.AdamW: decay first, bias-corrected moments, epsilon outside the
// root.
//   g = gradient * gradient_scale;  w -= lr * decay * w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   w -= lr / (1 - b1^step) * m / (sqrt(v / (1 - b2^step)) + epsilon)
struct AdamWArgs {
  float* weights;         // f32 [elements]
  const float* gradient;  // f32 [elements]
  float* first_moment;    // f32 [elements]
  float* second_moment;   // f32 [elements]
  int64_t elements;
  // f64: sum of squares of the whole gradient; where it exceeds max_norm^2 the gradient is scaled down, as by
  // torch.nn.utils.clip_grad_norm_: gradient_scale = min(1, max_norm / (sqrt(sum) + 1e-6)). null: no
  // clipping.
  const double* sum_of_squares;
  double max_norm;
  float learning_rate, beta1, beta2, epsilon, weight_decay;
  int64_t step;  // counted from 1
};
// The factor that clipping multiplies the gradient with, where sum_of_squares can be read.
inline double clipping_scale(const AdamWArgs& args) {
  if (args.sum_of_squares == nullptr) return 1.0;
  return std::min(1.0, args.max_norm / (std::sqrt(*args.sum_of_squares) + 1e-6));
}

}  // namespace onggi

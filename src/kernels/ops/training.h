// Loss, gradient norm and optimiser.
#pragma once

#include <cstdint>

#include "kernels/ops/context.h"

namespace onggi {

// losses[m] = log sum exp(logits[m]) - logits[m, labels[m]], in fp32 with the maximum taken out; and, when
// dlogits is given, dlogits[m, v] = gradient_scale * (softmax(logits[m])[v] - [v == labels[m]]).
struct CrossEntropyArgs {
  const float* logits;       // f32 [M, V]
  const int32_t* labels;     // i32 [M], each in [0, V)
  int64_t rows, vocabulary;  // M, V
  float gradient_scale;
  float* losses;   // f32 [M]
  float* dlogits;  // f32 [M, V], may be logits; null: loss alone
};

// The sum of squares in fp64, summed in an order that depends on the length alone.
struct SumOfSquaresArgs {
  const float* x;  // f32 [elements]
  int64_t elements;
  double* sum;  // overwritten
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
  float gradient_scale;  // of clipping
  float learning_rate, beta1, beta2, epsilon, weight_decay;
  int64_t step;  // counted from 1
};

}  // namespace onggi

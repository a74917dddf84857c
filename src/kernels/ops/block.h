// The ops of a transformer block besides its products.
#pragma once

#include <cstdint>

#include "kernels/ops/activation.h"
#include "kernels/ops/context.h"

namespace onggi {

// out[t, c] = x[t, c] * inverse_rms[t] * weight[c], inverse_rms[t] = 1 / sqrt(mean_c x[t, c]^2 + epsilon)
struct RmsNormArgs {
  ActivationView x;       // [T, C]
  const float* weight;    // f32 [C]
  int64_t tokens, width;  // T, C
  float epsilon;
  Activation out;          // [T, C], rows out_stride apart; may be x; its dtype may differ from x's
  int64_t out_stride = 0;  // elements; 0: C
  float* inverse_rms;      // f32 [T], kept for backward; null: not kept
};

// dx (+)= gradient of RmsNorm by x; the weight is frozen.
struct RmsNormBackwardArgs {
  ActivationView dout;       // [T, C]
  ActivationView x;          // [T, C]
  const float* weight;       // f32 [C]
  const float* inverse_rms;  // f32 [T]
  int64_t tokens, width;
  Activation dx;          // [T, C], rows dx_stride apart
  int64_t dx_stride = 0;  // elements; 0: C
  Output output = Output::kOverwrite;
};

// Each head's vector is RMS-normalised with weight [D], then rotated by its position (rotary embedding as in
// transformers' Qwen3: pairs (i, i + D/2), angle position * theta^(-2i/D)):
//   y = x * inverse_rms * weight;  out[i] = y[i] cos - y[i + D/2] sin;  out[i + D/2] = y[i + D/2] cos + y[i]
//   sin
struct HeadNormRopeArgs {
  ActivationView x;          // [T, H, D]
  const float* weight;       // f32 [D]; null: no normalisation (architectures without q/k norm)
  const int32_t* positions;  // i32 [T]
  int64_t tokens, heads, head_dim;
  float epsilon;
  double theta;
  Activation out;      // [T, H, D]; may be x
  float* inverse_rms;  // f32 [T, H], kept for backward; null: not kept
};

struct HeadNormRopeBackwardArgs {
  ActivationView dout;       // [T, H, D]
  ActivationView x;          // [T, H, D], the forward's input
  const float* weight;       // f32 [D] or null
  const int32_t* positions;  // i32 [T]
  const float* inverse_rms;  // f32 [T, H]
  int64_t tokens, heads, head_dim;
  double theta;
  Activation dx;          // [T, H, D], overwritten, rows dx_stride apart; may be dout where they are dense
  int64_t dx_stride = 0;  // elements; 0: H * D
};

// out = silu(gate) * up, silu(g) = g / (1 + exp(-g))
struct SwiGluArgs {
  ActivationView gate;     // [T, F]
  ActivationView up;       // [T, F]
  int64_t tokens, width;   // T, F
  Activation out;          // [T, F], rows out_stride apart; may be gate or up where out_stride is F
  int64_t out_stride = 0;  // elements; 0: F
};

struct SwiGluBackwardArgs {
  ActivationView dout;  // [T, F], dense like all others
  ActivationView gate;
  ActivationView up;
  int64_t tokens, width;   // T, F
  Activation dgate;        // may be gate
  Activation dup;          // rows dup_stride apart; may be up where they are dense
  int64_t dup_stride = 0;  // elements; 0: F
};

// out[i, :] = x[rows[i], :]
struct GatherRowsArgs {
  ActivationView x;      // [*, C]
  const int32_t* rows;   // i32 [M]
  int64_t count, width;  // M, C
  Activation out;        // [M, C], same dtype as x
};

// out[rows[i], :] = x[i, :]; the rows differ.
struct ScatterRowsArgs {
  ActivationView x;        // [M, C]
  const int32_t* rows;     // i32 [M]
  int64_t count, width;    // M, C
  Activation out;          // [*, C], rows out_stride apart, same dtype as x
  int64_t out_stride = 0;  // elements; 0: C
};

}  // namespace onggi

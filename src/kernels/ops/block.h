// The ops of a transformer block besides its products. Activations are f32.
#pragma once

#include <cstdint>

#include "kernels/ops/context.h"
#include "tensor/dtype.h"

namespace onggi {

// out[t, c] = x[t, c] * inverse_rms[t] * weight[c], inverse_rms[t] = 1 / sqrt(mean_c x[t, c]^2 + epsilon)
struct RmsNormArgs {
  const float* x;         // f32 [T, C]
  const float* weight;    // f32 [C]
  int64_t tokens, width;  // T, C
  float epsilon;
  float* out;          // f32 [T, C]; may be x
  float* inverse_rms;  // f32 [T], kept for backward; null: not kept
};

// dx (+)= gradient of RmsNorm by x; the weight is frozen.
struct RmsNormBackwardArgs {
  const float* dout;         // f32 [T, C]
  const float* x;            // f32 [T, C]
  const float* weight;       // f32 [C]
  const float* inverse_rms;  // f32 [T]
  int64_t tokens, width;
  float* dx;  // f32 [T, C]
  Output output = Output::kOverwrite;
};

// Each head's vector is RMS-normalised with weight [D], then rotated by its position (rotary embedding as in
// transformers' Qwen3: pairs (i, i + D/2), angle position * theta^(-2i/D)):
//   y = x * inverse_rms * weight;  out[i] = y[i] cos - y[i + D/2] sin;  out[i + D/2] = y[i + D/2] cos + y[i]
//   sin
struct HeadNormRopeArgs {
  const float* x;            // f32 [T, H, D]
  const float* weight;       // f32 [D]; null: no normalisation (architectures without q/k norm)
  const int32_t* positions;  // i32 [T]
  int64_t tokens, heads, head_dim;
  float epsilon;
  double theta;
  float* out;          // f32 [T, H, D]; may be x
  float* inverse_rms;  // f32 [T, H], kept for backward; null: not kept
};

struct HeadNormRopeBackwardArgs {
  const float* dout;         // f32 [T, H, D]
  const float* x;            // f32 [T, H, D], the forward's input
  const float* weight;       // f32 [D] or null
  const int32_t* positions;  // i32 [T]
  const float* inverse_rms;  // f32 [T, H]
  int64_t tokens, heads, head_dim;
  double theta;
  float* dx;  // f32 [T, H, D], overwritten; may be dout
};

// out = silu(gate) * up, silu(g) = g / (1 + exp(-g))
struct SwiGluArgs {
  const float* gate;  // f32 [elements]
  const float* up;    // f32 [elements]
  int64_t elements;
  float* out;  // f32 [elements]; may be gate or up
};

struct SwiGluBackwardArgs {
  const float* dout;  // f32 [elements]
  const float* gate;
  const float* up;
  int64_t elements;
  float* dgate;  // f32 [elements]; may be gate
  float* dup;    // f32 [elements]; may be up
};

// out += x
struct AddArgs {
  const float* x;  // f32 [elements]
  int64_t elements;
  float* out;  // f32 [elements]
};

}  // namespace onggi

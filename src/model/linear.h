// Steps that both modes share: a linear layer with its adapter, and the norms and rotations around attention.
#pragma once

#include "model/model.h"

namespace onggi {

// out (+)= x W^T, the weight alone.
void run_linear(const Compute& compute, const WeightView& weight, const float* x, int64_t tokens, float* out,
                Output output = Output::kOverwrite);

// dx (+)= dout W.
void run_linear_backward(const Compute& compute, const WeightView& weight, const float* dout, int64_t tokens,
                         float* dx, Output output);

// out f32 [T, N] += scale * (x A^T) B^T; u f32 [T, R] receives x A^T. Nothing happens without an adapter.
void add_lora(const Compute& compute, const LoraView& lora, const WeightView& weight, const float* x,
              int64_t tokens, float* u, float* out);

// x f32 [T, H, D] -> out, each head normalised and rotated. inverse_rms f32 [T, H] or null.
struct HeadTransform {
  const float* norm;         // f32 [D] or null
  const int32_t* positions;  // i32 [T]
  int64_t tokens, heads;
};
void run_head_norm_rope(const Model& model, const Compute& compute, const HeadTransform& transform,
                        const float* x, float* out, float* inverse_rms);

void run_rms_norm(const Model& model, const Compute& compute, const float* x, const float* weight,
                  int64_t tokens, float* out, float* inverse_rms);

void run_embedding(const Model& model, const Compute& compute, const int32_t* ids, int64_t tokens,
                   float* out);

// Throws InputError where an id lies outside the vocabulary.
void check_ids(const Model& model, const int32_t* ids, int64_t count);

}  // namespace onggi

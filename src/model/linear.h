// Steps that both modes share: a linear layer with its adapter, and the norms and rotations around attention.
#pragma once

#include "model/model.h"

namespace onggi {

// out (+)= x W^T, the weight alone.
void run_linear(const Compute& compute, const WeightView& weight, ActivationView x, int64_t tokens,
                Activation out, Output output = Output::kOverwrite);

// dx (+)= dout W.
void run_linear_backward(const Compute& compute, const WeightView& weight, ActivationView dout,
                         int64_t tokens, Activation dx, Output output);

// x [T, H, D] -> out, each head normalised and rotated. inverse_rms f32 [T, H] or null.
struct HeadTransform {
  const float* norm;         // f32 [D] or null
  const int32_t* positions;  // i32 [T]
  int64_t tokens, heads;
};
void run_head_norm_rope(const Model& model, const Compute& compute, const HeadTransform& transform,
                        ActivationView x, Activation out, float* inverse_rms);

void run_rms_norm(const Model& model, const Compute& compute, ActivationView x, const float* weight,
                  int64_t tokens, Activation out, float* inverse_rms);

// ids: on the device, checked before.
void run_embedding(const Model& model, const Compute& compute, const int32_t* ids, int64_t tokens,
                   Activation out);

// Waits for the device and reads activations as f32 into a host array.
void copy_out_as_f32(Stream& stream, ActivationView values, int64_t count, float* out);

// Throws InputError where an id (host) lies outside the vocabulary.
void check_ids(const Model& model, const int32_t* ids, int64_t count);

}  // namespace onggi

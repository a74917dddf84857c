#include "model/linear.h"

#include <vector>

#include "base/error.h"
#include "base/text.h"

namespace onggi {

void run_linear(const Compute& compute, const WeightView& weight, ActivationView x, int64_t tokens,
                Activation out, Output output) {
  LinearArgs args{.x = x, .weight = weight, .tokens = tokens, .out = out};
  args.output = output;
  args.precision = compute.precision;
  run_op(compute.ops.linear, "linear", compute.ops, weight.dtype, compute.context, args);
}

void run_linear_backward(const Compute& compute, const WeightView& weight, ActivationView dout,
                         int64_t tokens, Activation dx, Output output) {
  LinearBackwardArgs args{.dout = dout, .weight = weight, .tokens = tokens, .dx = dx};
  args.output = output;
  args.precision = compute.precision;
  run_op(compute.ops.linear_backward, "linear_backward", compute.ops, weight.dtype, compute.context, args);
}

void run_head_norm_rope(const Model& model, const Compute& compute, const HeadTransform& transform,
                        ActivationView x, Activation out, float* inverse_rms) {
  compute.ops.head_norm_rope(compute.context, {.x = x,
                                               .weight = transform.norm,
                                               .positions = transform.positions,
                                               .tokens = transform.tokens,
                                               .heads = transform.heads,
                                               .head_dim = model.config.head_dim,
                                               .epsilon = static_cast<float>(model.config.rms_norm_eps),
                                               .theta = model.config.rope_theta,
                                               .out = out,
                                               .inverse_rms = inverse_rms});
}

void run_rms_norm(const Model& model, const Compute& compute, ActivationView x, const float* weight,
                  int64_t tokens, Activation out, float* inverse_rms) {
  compute.ops.rms_norm(compute.context, {.x = x,
                                         .weight = weight,
                                         .tokens = tokens,
                                         .width = model.config.hidden_size,
                                         .epsilon = static_cast<float>(model.config.rms_norm_eps),
                                         .out = out,
                                         .inverse_rms = inverse_rms});
}

void run_embedding(const Model& model, const Compute& compute, const int32_t* ids, int64_t tokens,
                   Activation out) {
  const EmbeddingArgs args{.ids = ids, .table = model.embedding, .tokens = tokens, .out = out};
  run_op(compute.ops.embedding, "embedding", compute.ops, model.embedding.dtype, compute.context, args);
}

void copy_out_as_f32(Stream& stream, ActivationView values, int64_t count, float* out) {
  if (values.dtype == DType::kF32)
    return stream.copy_out(out, values.data, static_cast<size_t>(count) * sizeof(float));
  std::vector<uint16_t> bits(static_cast<size_t>(count));
  stream.copy_out(bits.data(), values.data, bits.size() * sizeof(uint16_t));
  for (size_t i = 0; i < bits.size(); ++i) out[i] = bf16_to_f32(bits[i]);
}

void check_ids(const Model& model, const int32_t* ids, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= model.config.vocab_size)
      throw InputError(text("token {} at place {} is outside the model's vocabulary of {}", ids[i], i,
                            model.config.vocab_size));
}

}  // namespace onggi

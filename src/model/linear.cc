#include "model/linear.h"

#include "base/error.h"
#include "base/text.h"

namespace onggi {

void run_linear(const Compute& compute, const WeightView& weight, const float* x, int64_t tokens, float* out,
                Output output) {
  LinearArgs args{.x = x, .weight = weight, .tokens = tokens, .out = out};
  args.output = output;
  args.precision = compute.precision;
  run_op(compute.ops.linear, "linear", compute.ops, weight.dtype, compute.context, args);
}

void run_linear_backward(const Compute& compute, const WeightView& weight, const float* dout, int64_t tokens,
                         float* dx, Output output) {
  LinearBackwardArgs args{.dout = dout, .weight = weight, .tokens = tokens, .dx = dx};
  args.output = output;
  args.precision = compute.precision;
  run_op(compute.ops.linear_backward, "linear_backward", compute.ops, weight.dtype, compute.context, args);
}

void add_lora(const Compute& compute, const LoraView& lora, const WeightView& weight, const float* x,
              int64_t tokens, float* u, float* out) {
  if (lora.a == nullptr) return;
  GemmArgs down{.m = tokens, .n = lora.rank, .k = weight.columns, .a = x, .b = lora.a, .c = u};
  down.transpose_b = Transpose::kYes;
  down.precision = compute.precision;
  compute.ops.gemm(compute.context, down);
  GemmArgs up{
      .m = tokens, .n = weight.rows, .k = lora.rank, .alpha = lora.scale, .a = u, .b = lora.b, .c = out};
  up.transpose_b = Transpose::kYes;
  up.output = Output::kAccumulate;
  up.precision = compute.precision;
  compute.ops.gemm(compute.context, up);
}

void run_head_norm_rope(const Model& model, const Compute& compute, const HeadTransform& transform,
                        const float* x, float* out, float* inverse_rms) {
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

void run_rms_norm(const Model& model, const Compute& compute, const float* x, const float* weight,
                  int64_t tokens, float* out, float* inverse_rms) {
  compute.ops.rms_norm(compute.context, {.x = x,
                                         .weight = weight,
                                         .tokens = tokens,
                                         .width = model.config.hidden_size,
                                         .epsilon = static_cast<float>(model.config.rms_norm_eps),
                                         .out = out,
                                         .inverse_rms = inverse_rms});
}

void run_embedding(const Model& model, const Compute& compute, const int32_t* ids, int64_t tokens,
                   float* out) {
  check_ids(model, ids, tokens);
  const EmbeddingArgs args{.ids = ids, .table = model.embedding, .tokens = tokens, .out = out};
  run_op(compute.ops.embedding, "embedding", compute.ops, model.embedding.dtype, compute.context, args);
}

void check_ids(const Model& model, const int32_t* ids, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= model.config.vocab_size)
      throw InputError(text("token {} at place {} is outside the model's vocabulary of {}", ids[i], i,
                            model.config.vocab_size));
}

}  // namespace onggi

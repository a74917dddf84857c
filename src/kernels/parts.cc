// Ops made of others, run part by part: what devices without a kernel for the whole do, and what kernels for
// the whole are compared with.
#include "base/error.h"
#include "kernels/table.h"

namespace onggi {
namespace {

void multiply(const OpTable& table, const OpContext& context, GemmArgs args, Precision precision) {
  args.precision = precision;
  table.gemm(context, args);
}

// The input of one adapter: x itself, or its masked copy in `dropped`.
ActivationView drop(const OpTable& table, const OpContext& context, const DropoutArgs& mask) {
  if (mask.probability <= 0) return mask.x;
  table.dropout(context, mask);
  return mask.out;
}

DropoutArgs mask_of(const LoraDropout& dropout, uint64_t stream, int64_t elements) {
  return {.x = nullptr,
          .elements = elements,
          .probability = dropout.probability,
          .seed = dropout.seed,
          .stream = stream,
          .first_stream = dropout.first_stream,
          .out = nullptr};
}

}  // namespace

void run_adapted_linear_parts(const OpTable& table, const OpContext& context, const AdaptedLinearArgs& args) {
  const int64_t tokens = args.tokens, columns = args.members[0].weight.columns;
  check_dense(args.x_stride, columns);
  ONGGI_CHECK(args.residual.is_null() || args.count == 1);
  ActivationView x = args.x;
  if (args.norm != nullptr) {
    table.rms_norm(context, {.x = args.x,
                             .weight = args.norm,
                             .tokens = tokens,
                             .width = columns,
                             .epsilon = args.epsilon,
                             .out = args.normed,
                             .inverse_rms = nullptr});
    x = args.normed;
  }
  for (int i = 0; i < args.count; ++i) {
    const AdaptedLinearArgs::Member& member = args.members[static_cast<size_t>(i)];
    const int64_t rows = member.weight.rows;
    Output output = Output::kOverwrite;
    if (!args.residual.is_null()) {
      output = Output::kAccumulate;
      if (args.residual.data != member.out.data)
        context.stream.copy(member.out.data, args.residual.data,
                            static_cast<size_t>(dtype_bytes(args.residual.dtype, tokens * rows)));
    }
    run_op(table.linear, "linear", table, member.weight.dtype, context,
           LinearArgs{.x = x,
                      .weight = member.weight,
                      .tokens = tokens,
                      .out = member.out,
                      .output = output,
                      .precision = args.precision});
    const LoraView& lora = member.lora;
    if (lora.a == nullptr) continue;
    DropoutArgs mask = mask_of(args.dropout, member.dropout_stream, tokens * columns);
    mask.x = x;
    mask.out = args.dropped;
    const ActivationView input = drop(table, context, mask);
    const Activation u = member.lora_u.is_null() ? args.u : member.lora_u;
    multiply(table, context,
             {.transpose_b = Transpose::kYes,
              .m = tokens,
              .n = lora.rank,
              .k = columns,
              .a = input,
              .b = lora.a,
              .c = u},
             args.precision);
    multiply(table, context,
             {.transpose_b = Transpose::kYes,
              .m = tokens,
              .n = rows,
              .k = lora.rank,
              .alpha = lora.scale,
              .a = u,
              .b = lora.b,
              .c = member.out,
              .output = Output::kAccumulate},
             args.precision);
  }
}

void run_adapted_linear_backward_parts(const OpTable& table, const OpContext& context,
                                       const AdaptedLinearBackwardArgs& args) {
  const int64_t tokens = args.tokens, k = args.members[0].weight.columns;
  check_dense(args.x_stride, k);
  Output output = args.output;
  for (int i = 0; i < args.count; ++i) {
    const AdaptedLinearBackwardArgs::Member& member = args.members[static_cast<size_t>(i)];
    const int64_t n = member.weight.rows;
    check_dense(member.dout_stride, n);
    if (!args.dx.is_null())
      run_op(table.linear_backward, "linear_backward", table, member.weight.dtype, context,
             LinearBackwardArgs{.dout = member.dout,
                                .weight = member.weight,
                                .tokens = tokens,
                                .dx = args.dx,
                                .output = output,
                                .precision = args.precision});
    output = Output::kAccumulate;
    const LoraView& lora = member.lora;
    if (lora.a == nullptr) continue;
    const int64_t r = lora.rank;
    DropoutArgs mask = mask_of(args.dropout, member.dropout_stream, tokens * k);
    mask.x = args.x;
    mask.out = args.dropped;
    const ActivationView input = drop(table, context, mask);
    // dB [N, R] += scale * dout^T u
    multiply(table, context,
             {.transpose_a = Transpose::kYes,
              .m = n,
              .n = r,
              .k = tokens,
              .alpha = lora.scale,
              .a = member.dout,
              .b = member.lora_u,
              .c = member.b_gradient,
              .output = Output::kAccumulate},
             args.precision);
    // du [T, R] = scale * dout B
    multiply(table, context,
             {.m = tokens, .n = r, .k = n, .alpha = lora.scale, .a = member.dout, .b = lora.b, .c = args.d_u},
             args.precision);
    // dA [R, K] += du^T dropout(x)
    multiply(table, context,
             {.transpose_a = Transpose::kYes,
              .m = r,
              .n = k,
              .k = tokens,
              .a = args.d_u,
              .b = input,
              .c = member.a_gradient,
              .output = Output::kAccumulate},
             args.precision);
    if (args.dx.is_null()) continue;
    // dx += dropout'(du A): the mask of a gradient is the mask of the input.
    GemmArgs to_input{.m = tokens, .n = k, .k = r, .a = args.d_u, .b = lora.a, .c = nullptr};
    if (args.dropout.probability <= 0) {
      to_input.c = args.dx;
      to_input.output = Output::kAccumulate;
      multiply(table, context, to_input, args.precision);
      continue;
    }
    to_input.c = args.d_dropped;
    multiply(table, context, to_input, args.precision);
    mask.x = args.d_dropped;
    mask.out = args.dx;
    mask.output = Output::kAccumulate;
    table.dropout(context, mask);
  }
}

void run_gated_linear_parts(const OpTable& table, const OpContext& context, const GatedLinearArgs& args) {
  run_adapted_linear(table, context, args.linears);
  table.swiglu(context, {.gate = args.linears.members[0].out,
                         .up = args.linears.members[1].out,
                         .tokens = args.linears.tokens,
                         .width = args.linears.members[0].weight.rows,
                         .out = args.out,
                         .out_stride = args.out_stride});
}

void run_gated_linear_backward_parts(const OpTable& table, const OpContext& context,
                                     const GatedLinearBackwardArgs& args) {
  const int64_t tokens = args.linear.tokens, width = args.linear.members[0].weight.columns;
  table.swiglu(context, {.gate = args.gate,
                         .up = args.up,
                         .tokens = tokens,
                         .width = width,
                         .out = args.activated,
                         .out_stride = args.linear.x_stride});
  AdaptedLinearBackwardArgs linear = args.linear;
  linear.x = args.activated;
  run_adapted_linear_backward(table, context, linear);
  table.swiglu_backward(context, {.dout = linear.dx,
                                  .gate = args.gate,
                                  .up = args.up,
                                  .tokens = tokens,
                                  .width = width,
                                  .dgate = args.dgate,
                                  .dup = args.dup,
                                  .dup_stride = args.dup_stride});
}

void run_attention_input_parts(const OpTable& table, const OpContext& context,
                               const AttentionInputArgs& args) {
  const auto turn = [&](Activation heads, const float* norm, int64_t count) {
    table.head_norm_rope(context, {.x = heads,
                                   .weight = norm,
                                   .positions = args.sequences.positions,
                                   .tokens = args.tokens,
                                   .heads = count,
                                   .head_dim = args.head_dim,
                                   .epsilon = args.epsilon,
                                   .theta = args.theta,
                                   .out = heads,
                                   .inverse_rms = nullptr});
  };
  turn(args.q, args.query_norm, args.query_heads);
  turn(args.k, args.key_norm, args.kv_heads);
  table.kv_store(context, {.k = args.k,
                           .v = args.v,
                           .cache = args.cache,
                           .sequences = args.sequences,
                           .tokens = args.tokens,
                           .kv_heads = args.kv_heads,
                           .head_dim = args.head_dim});
}

void run_adapted_linear(const OpTable& table, const OpContext& context, const AdaptedLinearArgs& args) {
  if (table.adapted_linear != nullptr) return table.adapted_linear(context, args);
  run_adapted_linear_parts(table, context, args);
}

void run_adapted_linear_backward(const OpTable& table, const OpContext& context,
                                 const AdaptedLinearBackwardArgs& args) {
  if (table.adapted_linear_backward != nullptr) return table.adapted_linear_backward(context, args);
  run_adapted_linear_backward_parts(table, context, args);
}

void run_gated_linear(const OpTable& table, const OpContext& context, const GatedLinearArgs& args) {
  if (table.gated_linear != nullptr) return table.gated_linear(context, args);
  run_gated_linear_parts(table, context, args);
}

void run_gated_linear_backward(const OpTable& table, const OpContext& context,
                               const GatedLinearBackwardArgs& args) {
  if (table.gated_linear_backward != nullptr) return table.gated_linear_backward(context, args);
  run_gated_linear_backward_parts(table, context, args);
}

void run_attention_input(const OpTable& table, const OpContext& context, const AttentionInputArgs& args) {
  if (table.attention_input != nullptr) return table.attention_input(context, args);
  run_attention_input_parts(table, context, args);
}

void run_pass_attention(const OpTable& table, const OpContext& context, const PassAttentionArgs& args) {
  if (table.pass_attention != nullptr) return table.pass_attention(context, args);
  const AttentionInputArgs& input = args.input;
  run_attention_input(table, context, input);
  table.cached_attention(context, {.q = input.q,
                                   .cache = input.cache,
                                   .sequences = input.sequences,
                                   .tokens = input.tokens,
                                   .query_heads = input.query_heads,
                                   .kv_heads = input.kv_heads,
                                   .head_dim = input.head_dim,
                                   .scale = args.scale,
                                   .out = args.out,
                                   .out_stride = args.out_stride});
}

}  // namespace onggi

#include "model/training.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "model/linear.h"
#include "model/training_memory.h"

namespace onggi {
namespace {

constexpr int32_t kNoLabel = -100;

// One pass over a packed batch.
class Pass {
 public:
  Pass(const Model& model, const Compute& compute, const TrainingBatch& batch, const DropoutState& dropout,
       TrainingMemory& memory)
      : model_(model),
        config_(model.config),
        compute_(compute),
        batch_(batch),
        dropout_(dropout),
        a_(memory.arrays()),
        keeps_all_(memory.policy() == ActivationPolicy::kKeepAll),
        tokens_(static_cast<int64_t>(batch.tokens.size())) {
    ONGGI_CHECK(tokens_ > 0 && tokens_ <= memory.max_tokens(), "the batch fits the planned memory");
    ONGGI_CHECK(batch.segment_starts.size() >= 2 && batch.segment_starts.back() == tokens_);
    positions_.reserve(batch.tokens.size());
    for (size_t s = 0; s + 1 < batch.segment_starts.size(); ++s)
      for (int32_t i = batch.segment_starts[s]; i < batch.segment_starts[s + 1]; ++i)
        positions_.push_back(i - batch.segment_starts[s]);
    for (int64_t t = 0; t < static_cast<int64_t>(batch.labels.size()); ++t)
      if (batch.labels[static_cast<size_t>(t)] != kNoLabel) labelled_.push_back(t);
  }

  void forward();
  // Sum of losses; with a gradient scale, d_x receives the gradient of the last block's output.
  PassResult loss(const float* gradient_scale, float* per_label);
  void backward(std::span<float> gradient);
  void all_logits(float* logits);
  const float* after_block(int64_t index) const { return a_.block_inputs[static_cast<size_t>(index) + 1]; }

 private:
  BlockActivations& block(int64_t index) { return a_.blocks[keeps_all_ ? static_cast<size_t>(index) : 0]; }
  const LayerWeights& layer(int64_t index) const { return model_.layers[static_cast<size_t>(index)]; }

  void forward_block(int64_t index);
  void backward_block(int64_t index);
  void backward_ffn(int64_t index);
  void backward_attention(int64_t index);
  void linear(TensorRole role, int64_t index, const float* x, float* out, Output output);
  void linear_backward(TensorRole role, int64_t index, const float* x, const float* dout, float* dx,
                       Output output);
  void drop(TensorRole role, int64_t index, const float* x, int64_t elements, float* out,
            Output output) const;
  AttentionArgs attention_args(BlockActivations& block) const;
  void swiglu(BlockActivations& block);

  const Model& model_;
  const ModelConfig& config_;
  const Compute& compute_;
  const TrainingBatch& batch_;
  const DropoutState& dropout_;
  TrainingMemory::Arrays& a_;
  bool keeps_all_;
  int64_t tokens_;
  std::vector<int32_t> positions_;
  std::vector<int64_t> labelled_;  // positions that have a label
  std::span<float> gradient_;
};

int projection_index(TensorRole role) {
  const auto& roles = lora_target_roles();
  for (size_t i = 0; i < roles.size(); ++i)
    if (roles[i] == role) return static_cast<int>(i);
  ONGGI_CHECK(false, "role is a projection");
  return 0;
}

// The masks of one LoRA input; the same call with kAccumulate on a gradient is its backward.
void Pass::drop(TensorRole role, int64_t index, const float* x, int64_t elements, float* out,
                Output output) const {
  const auto stream = static_cast<uint64_t>(index * kProjections + projection_index(role));
  const auto streams_per_pass = static_cast<uint64_t>(config_.num_layers * kProjections);
  compute_.ops.dropout(compute_.context, {.x = x,
                                          .elements = elements,
                                          .probability = static_cast<float>(dropout_.probability),
                                          .seed = dropout_.seed,
                                          .stream = dropout_.pass * streams_per_pass + stream,
                                          .out = out,
                                          .output = output});
}

// out (+)= x W^T + scale * B (A dropout(x)); A dropout(x) is kept for backward.
void Pass::linear(TensorRole role, int64_t index, const float* x, float* out, Output output) {
  const WeightView& weight = layer(index).linear(role);
  run_linear(compute_, weight, x, tokens_, out, output);
  const LoraView lora = model_.lora(role, index);
  if (lora.a == nullptr) return;
  const float* lora_input = x;
  if (dropout_.probability > 0) {
    drop(role, index, x, tokens_ * weight.columns, a_.dropped, Output::kOverwrite);
    lora_input = a_.dropped;
  }
  add_lora(compute_, lora, weight, lora_input, tokens_, block(index).lora_u[projection_index(role)], out);
}

// dx (+)= dout W + dropout'(scale * (dout B) A); gradients of A and B are added to the flat gradient.
void Pass::linear_backward(TensorRole role, int64_t index, const float* x, const float* dout, float* dx,
                           Output output) {
  const WeightView& weight = layer(index).linear(role);
  if (dx != nullptr) run_linear_backward(compute_, weight, dout, tokens_, dx, output);
  const LoraView lora = model_.lora(role, index);
  if (lora.a == nullptr) return;
  const LoraEntry& entry = *model_.adapter->find(role, index);
  const int64_t n = weight.rows, k = weight.columns, r = lora.rank;
  const bool drops = dropout_.probability > 0;
  const float* lora_input = x;
  if (drops) {
    drop(role, index, x, tokens_ * k, a_.dropped, Output::kOverwrite);
    lora_input = a_.dropped;
  }
  const auto gemm = [&](GemmArgs args) {
    args.precision = compute_.precision;
    compute_.ops.gemm(compute_.context, args);
  };
  const float* u = block(index).lora_u[projection_index(role)];
  // dB [N, R] += scale * dout^T u
  gemm({.transpose_a = Transpose::kYes,
        .m = n,
        .n = r,
        .k = tokens_,
        .alpha = lora.scale,
        .a = dout,
        .b = u,
        .c = gradient_.data() + entry.b_offset,
        .output = Output::kAccumulate});
  // du [T, R] = scale * dout B
  gemm({.m = tokens_, .n = r, .k = n, .alpha = lora.scale, .a = dout, .b = lora.b, .c = a_.d_u});
  // dA [R, K] += du^T dropout(x)
  gemm({.transpose_a = Transpose::kYes,
        .m = r,
        .n = k,
        .k = tokens_,
        .a = a_.d_u,
        .b = lora_input,
        .c = gradient_.data() + entry.a_offset,
        .output = Output::kAccumulate});
  if (dx == nullptr) return;
  if (!drops) {
    gemm({.m = tokens_, .n = k, .k = r, .a = a_.d_u, .b = lora.a, .c = dx, .output = Output::kAccumulate});
    return;
  }
  gemm({.m = tokens_, .n = k, .k = r, .a = a_.d_u, .b = lora.a, .c = a_.d_dropped});
  drop(role, index, a_.d_dropped, tokens_ * k, dx, Output::kAccumulate);
}

AttentionArgs Pass::attention_args(BlockActivations& block) const {
  return {.q = block.rotated_query,
          .k = block.rotated_key,
          .v = block.value,
          .segment_starts = batch_.segment_starts.data(),
          .segments = static_cast<int64_t>(batch_.segment_starts.size()) - 1,
          .tokens = tokens_,
          .query_heads = config_.num_heads,
          .kv_heads = config_.num_kv_heads,
          .head_dim = config_.head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
          .out = block.attended,
          .log_sum_exp = block.log_sum_exp,
          .precision = compute_.precision};
}

void Pass::swiglu(BlockActivations& block) {
  compute_.ops.swiglu(compute_.context, {.gate = block.gate,
                                         .up = block.up,
                                         .elements = tokens_ * config_.intermediate_size,
                                         .out = a_.activated});
}

void Pass::forward_block(int64_t index) {
  const LayerWeights& weights = layer(index);
  BlockActivations& b = block(index);
  const float* x = a_.block_inputs[static_cast<size_t>(index)];
  float* out = a_.block_inputs[static_cast<size_t>(index) + 1];
  const auto stream_bytes = static_cast<size_t>(tokens_ * config_.hidden_size) * sizeof(float);

  run_rms_norm(model_, compute_, x, weights.attention_norm, tokens_, a_.normed, b.inverse_rms_attention);
  linear(TensorRole::kQ, index, a_.normed, b.query, Output::kOverwrite);
  linear(TensorRole::kK, index, a_.normed, b.key, Output::kOverwrite);
  linear(TensorRole::kV, index, a_.normed, b.value, Output::kOverwrite);
  run_head_norm_rope(model_, compute_, {weights.query_norm, positions_.data(), tokens_, config_.num_heads},
                     b.query, b.rotated_query, b.inverse_rms_query);
  run_head_norm_rope(model_, compute_, {weights.key_norm, positions_.data(), tokens_, config_.num_kv_heads},
                     b.key, b.rotated_key, b.inverse_rms_key);
  compute_.ops.attention(compute_.context, attention_args(b));
  std::memcpy(b.middle, x, stream_bytes);
  linear(TensorRole::kO, index, b.attended, b.middle, Output::kAccumulate);

  run_rms_norm(model_, compute_, b.middle, weights.ffn_norm, tokens_, a_.normed, b.inverse_rms_ffn);
  linear(TensorRole::kGate, index, a_.normed, b.gate, Output::kOverwrite);
  linear(TensorRole::kUp, index, a_.normed, b.up, Output::kOverwrite);
  swiglu(b);
  std::memcpy(out, b.middle, stream_bytes);
  linear(TensorRole::kDown, index, a_.activated, out, Output::kAccumulate);
}

void Pass::forward() {
  run_embedding(model_, compute_, batch_.tokens.data(), tokens_, a_.block_inputs[0]);
  for (int64_t index = 0; index < config_.num_layers; ++index) forward_block(index);
}

PassResult Pass::loss(const float* gradient_scale, float* per_label) {
  const int64_t width = config_.hidden_size;
  const float* hidden = a_.block_inputs.back();
  if (gradient_scale != nullptr) std::memset(a_.d_x, 0, static_cast<size_t>(tokens_ * width) * sizeof(float));
  PassResult result;
  const auto count = static_cast<int64_t>(labelled_.size());
  std::vector<int32_t> labels;
  for (int64_t begin = 0; begin < count; begin += a_.logit_rows) {
    const int64_t rows = std::min(a_.logit_rows, count - begin);
    labels.clear();
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t position = labelled_[static_cast<size_t>(begin + i)];
      labels.push_back(batch_.labels[static_cast<size_t>(position)]);
      std::memcpy(a_.head_input + i * width, hidden + position * width,
                  static_cast<size_t>(width) * sizeof(float));
    }
    check_ids(model_, labels.data(), rows);
    run_rms_norm(model_, compute_, a_.head_input, model_.final_norm, rows, a_.head_normed, a_.head_inverse);
    run_linear(compute_, model_.lm_head, a_.head_normed, rows, a_.logits);
    compute_.ops.cross_entropy(compute_.context,
                               {.logits = a_.logits,
                                .labels = labels.data(),
                                .rows = rows,
                                .vocabulary = config_.vocab_size,
                                .gradient_scale = gradient_scale == nullptr ? 0.0f : *gradient_scale,
                                .losses = a_.losses,
                                .dlogits = gradient_scale == nullptr ? nullptr : a_.logits});
    for (int64_t i = 0; i < rows; ++i) {
      result.loss_sum += a_.losses[i];
      if (per_label != nullptr) per_label[begin + i] = a_.losses[i];
    }
    if (gradient_scale == nullptr) continue;
    run_linear_backward(compute_, model_.lm_head, a_.logits, rows, a_.d_head, Output::kOverwrite);
    compute_.ops.rms_norm_backward(compute_.context, {.dout = a_.d_head,
                                                      .x = a_.head_input,
                                                      .weight = model_.final_norm,
                                                      .inverse_rms = a_.head_inverse,
                                                      .tokens = rows,
                                                      .width = width,
                                                      .dx = a_.head_normed,
                                                      .output = Output::kOverwrite});
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(a_.d_x + labelled_[static_cast<size_t>(begin + i)] * width, a_.head_normed + i * width,
                  static_cast<size_t>(width) * sizeof(float));
  }
  result.label_tokens = count;
  return result;
}

void Pass::backward_ffn(int64_t index) {
  const LayerWeights& weights = layer(index);
  BlockActivations& b = block(index);
  swiglu(b);
  linear_backward(TensorRole::kDown, index, a_.activated, a_.d_x, a_.d_activated, Output::kOverwrite);
  // In place: gate and up become their own gradients, since nothing needs them any more.
  compute_.ops.swiglu_backward(compute_.context, {.dout = a_.d_activated,
                                                  .gate = b.gate,
                                                  .up = b.up,
                                                  .elements = tokens_ * config_.intermediate_size,
                                                  .dgate = b.gate,
                                                  .dup = b.up});
  run_rms_norm(model_, compute_, b.middle, weights.ffn_norm, tokens_, a_.normed, nullptr);
  linear_backward(TensorRole::kGate, index, a_.normed, b.gate, a_.d_normed, Output::kOverwrite);
  linear_backward(TensorRole::kUp, index, a_.normed, b.up, a_.d_normed, Output::kAccumulate);
  compute_.ops.rms_norm_backward(compute_.context, {.dout = a_.d_normed,
                                                    .x = b.middle,
                                                    .weight = weights.ffn_norm,
                                                    .inverse_rms = b.inverse_rms_ffn,
                                                    .tokens = tokens_,
                                                    .width = config_.hidden_size,
                                                    .dx = a_.d_x,
                                                    .output = Output::kAccumulate});
}

void Pass::backward_attention(int64_t index) {
  const LayerWeights& weights = layer(index);
  BlockActivations& b = block(index);
  const float* x = a_.block_inputs[static_cast<size_t>(index)];
  linear_backward(TensorRole::kO, index, b.attended, a_.d_x, a_.d_attended, Output::kOverwrite);
  const AttentionArgs forward = attention_args(b);
  compute_.ops.attention_backward(compute_.context, {.dout = a_.d_attended,
                                                     .q = forward.q,
                                                     .k = forward.k,
                                                     .v = forward.v,
                                                     .out = forward.out,
                                                     .log_sum_exp = forward.log_sum_exp,
                                                     .segment_starts = forward.segment_starts,
                                                     .segments = forward.segments,
                                                     .tokens = tokens_,
                                                     .query_heads = forward.query_heads,
                                                     .kv_heads = forward.kv_heads,
                                                     .head_dim = forward.head_dim,
                                                     .scale = forward.scale,
                                                     .dq = a_.d_query,
                                                     .dk = a_.d_key,
                                                     .dv = a_.d_value,
                                                     .precision = compute_.precision});
  const auto rotate_back = [&](float* gradient, const float* input, const float* norm, const float* inverse,
                               int64_t heads) {
    compute_.ops.head_norm_rope_backward(compute_.context, {.dout = gradient,
                                                            .x = input,
                                                            .weight = norm,
                                                            .positions = positions_.data(),
                                                            .inverse_rms = inverse,
                                                            .tokens = tokens_,
                                                            .heads = heads,
                                                            .head_dim = config_.head_dim,
                                                            .theta = config_.rope_theta,
                                                            .dx = gradient});
  };
  rotate_back(a_.d_query, b.query, weights.query_norm, b.inverse_rms_query, config_.num_heads);
  rotate_back(a_.d_key, b.key, weights.key_norm, b.inverse_rms_key, config_.num_kv_heads);

  run_rms_norm(model_, compute_, x, weights.attention_norm, tokens_, a_.normed, nullptr);
  // Nothing is trained below the first block's projections: their input's gradient is not needed.
  float* d_normed = index == 0 ? nullptr : a_.d_normed;
  linear_backward(TensorRole::kQ, index, a_.normed, a_.d_query, d_normed, Output::kOverwrite);
  linear_backward(TensorRole::kK, index, a_.normed, a_.d_key, d_normed, Output::kAccumulate);
  linear_backward(TensorRole::kV, index, a_.normed, a_.d_value, d_normed, Output::kAccumulate);
  if (index == 0) return;
  compute_.ops.rms_norm_backward(compute_.context, {.dout = a_.d_normed,
                                                    .x = x,
                                                    .weight = weights.attention_norm,
                                                    .inverse_rms = b.inverse_rms_attention,
                                                    .tokens = tokens_,
                                                    .width = config_.hidden_size,
                                                    .dx = a_.d_x,
                                                    .output = Output::kAccumulate});
}

void Pass::backward_block(int64_t index) {
  // The last block's activations are still there from the forward, whatever the policy.
  if (!keeps_all_ && index != config_.num_layers - 1) forward_block(index);
  backward_ffn(index);
  backward_attention(index);
}

void Pass::backward(std::span<float> gradient) {
  gradient_ = gradient;
  for (int64_t index = config_.num_layers - 1; index >= 0; --index) backward_block(index);
}

void Pass::all_logits(float* logits) {
  const int64_t width = config_.hidden_size;
  for (int64_t begin = 0; begin < tokens_; begin += a_.logit_rows) {
    const int64_t rows = std::min(a_.logit_rows, tokens_ - begin);
    run_rms_norm(model_, compute_, a_.block_inputs.back() + begin * width, model_.final_norm, rows,
                 a_.head_normed, nullptr);
    run_linear(compute_, model_.lm_head, a_.head_normed, rows, logits + begin * config_.vocab_size);
  }
}

const DropoutState kNoDropout;

}  // namespace

PassResult loss_of_batch(const Model& model, const Compute& compute, const TrainingBatch& batch,
                         TrainingMemory& memory, float* per_label) {
  Pass pass(model, compute, batch, kNoDropout, memory);
  pass.forward();
  return pass.loss(nullptr, per_label);
}

PassResult forward_backward(const Model& model, const Compute& compute, const TrainingBatch& batch,
                            const DropoutState& dropout, float loss_scale, TrainingMemory& memory,
                            std::span<float> gradient) {
  ONGGI_CHECK(model.adapter && gradient.size() == model.adapter->values.size());
  Pass pass(model, compute, batch, dropout, memory);
  pass.forward();
  const PassResult result = pass.loss(&loss_scale, nullptr);
  if (result.label_tokens > 0) pass.backward(gradient);
  return result;
}

void logits_of_batch(const Model& model, const Compute& compute, const TrainingBatch& batch,
                     TrainingMemory& memory, float* logits, const HiddenProbe* hidden) {
  Pass pass(model, compute, batch, kNoDropout, memory);
  pass.forward();
  pass.all_logits(logits);
  if (hidden != nullptr)
    std::memcpy(hidden->out, pass.after_block(hidden->after_block),
                batch.tokens.size() * static_cast<size_t>(model.config.hidden_size) * sizeof(float));
}

}  // namespace onggi

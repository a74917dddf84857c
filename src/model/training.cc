#include "model/training.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
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
        stream_(compute.stream()),
        dropout_(dropout),
        a_(memory.arrays()),
        layers_(memory.layers()),
        keeps_all_(memory.policy() == ActivationPolicy::kKeepAll),
        tokens_(static_cast<int64_t>(batch.tokens.size())),
        recordings_(memory.recordings(tokens_)),
        padding_(compute.ops.row_padding(compute.precision, model.adapter ? model.adapter->rank() : 0)) {
    ONGGI_CHECK(tokens_ > 0 && tokens_ <= memory.max_tokens(), "the batch fits the planned memory");
    ONGGI_CHECK(&layers_.model() == &model, "the memory was made for this model");
    ONGGI_CHECK(batch.segment_starts.size() >= 2 && batch.segment_starts.back() == tokens_);
    take_in(batch);
  }

  void forward();
  // Adds the losses to loss_sum; with a gradient scale, d_x receives the gradient of the last block's output.
  void loss(const float* gradient_scale, float* per_label);
  // gradient: as in forward_backward.
  void backward(float* gradient);
  // forward() and backward() of training, recorded where passes of this shape come again.
  void recorded_forward() {
    recorded(TrainingPassKey::Part::kForward, nullptr, [&] { forward(); });
  }
  void recorded_backward(float* gradient) {
    recorded(TrainingPassKey::Part::kBackward, gradient, [&] { backward(gradient); });
  }
  void all_logits(float* logits);
  Activation after_block(int64_t index) const { return a_.block_inputs[static_cast<size_t>(index) + 1]; }
  int64_t label_count() const { return label_count_; }

 private:
  using Linears = std::initializer_list<TensorRole>;

  const BlockActivations& block(int64_t index) const {
    return a_.blocks[keeps_all_ ? static_cast<size_t>(index) : 0];
  }
  BlockActivations& block(int64_t index) { return a_.blocks[keeps_all_ ? static_cast<size_t>(index) : 0]; }
  const LayerWeights& layer(int64_t index) const { return layers_[index]; }

  void take_in(const TrainingBatch& batch);
  template <typename Work>
  void recorded(TrainingPassKey::Part part, const float* gradient, const Work& work) {
    if (layers_.any()) return work();  // the stream that brings the layers is not recorded
    const TrainingPassKey key{.part = part,
                              .tokens = tokens_,
                              .is_one_segment = segments_.count == 1,
                              .dropout = dropout_.probability,
                              .seed = dropout_.seed,
                              .gradient = gradient};
    if (!recordings_.replay(stream_, key, work)) work();
  }
  void forward_block(int64_t index);
  void backward_block(int64_t index);
  void backward_ffn(int64_t index);
  void backward_attention(int64_t index);
  void norm(Activation x, const float* weight, float* inverse_rms);
  void norm_backward(Activation x, const float* weight, const float* inverse_rms);
  // outs of the linears of one input; residual for a single one.
  void linears(Linears roles, int64_t index, Activation x, std::initializer_list<Activation> outs,
               ActivationView residual = nullptr);
  // Gradient of a linear's output, dense or with padded rows.
  struct OutputGradient {
    ActivationView data;
    int64_t padding = 0;
  };
  AdaptedLinearBackwardArgs backward_args(Linears roles, int64_t index, ActivationView x,
                                          std::initializer_list<OutputGradient> douts, Activation dx) const;
  void linears_backward(Linears roles, int64_t index, ActivationView x,
                        std::initializer_list<OutputGradient> douts, Activation dx) {
    run_adapted_linear_backward(compute_.ops, compute_.context, backward_args(roles, index, x, douts, dx));
  }
  uint64_t dropout_stream(TensorRole role, int64_t index) const;
  LoraDropout lora_dropout() const {
    return {static_cast<float>(dropout_.probability), dropout_.seed, a_.first_stream};
  }
  AttentionArgs attention_args(BlockActivations& block) const;

  const Model& model_;
  const ModelConfig& config_;
  const Compute& compute_;
  Stream& stream_;
  const DropoutState& dropout_;
  TrainingMemory::Arrays& a_;
  StreamedLayers& layers_;
  bool keeps_all_;
  int64_t tokens_;
  Recordings<TrainingPassKey>& recordings_;
  int64_t padding_;          // of the rows of linears' inputs
  int64_t label_count_ = 0;  // M
  Segments segments_{};
  float* gradient_ = nullptr;
};

// Copies what the batch looks like to the device.
void Pass::take_in(const TrainingBatch& batch) {
  check_ids(model_, batch.tokens.data(), tokens_);
  std::vector<int32_t> positions, first_row, end_row, labels, labelled;
  for (size_t s = 0; s + 1 < batch.segment_starts.size(); ++s) {
    const int32_t begin = batch.segment_starts[s], end = batch.segment_starts[s + 1];
    for (int32_t i = begin; i < end; ++i) {
      positions.push_back(i - begin);
      first_row.push_back(begin);
      end_row.push_back(end);
    }
  }
  for (size_t t = 0; t < batch.labels.size(); ++t) {
    if (batch.labels[t] == kNoLabel) continue;
    labels.push_back(batch.labels[t]);
    labelled.push_back(static_cast<int32_t>(t));
  }
  label_count_ = static_cast<int64_t>(labels.size());
  check_ids(model_, labels.data(), label_count_);
  const auto copy = [&](int32_t* to, std::span<const int32_t> from) {
    stream_.copy_in(to, from.data(), from.size_bytes());
  };
  copy(a_.tokens, batch.tokens);
  copy(a_.positions, positions);
  copy(a_.first_row, first_row);
  copy(a_.end_row, end_row);
  copy(a_.starts, batch.segment_starts);
  copy(a_.labels, labels);
  copy(a_.labelled, labelled);
  segments_ = {a_.starts, a_.first_row, a_.end_row, static_cast<int64_t>(batch.segment_starts.size()) - 1};
  // The masks of a pass are those of no other.
  const uint64_t first_stream = dropout_.pass * static_cast<uint64_t>(config_.num_layers * kProjections);
  stream_.copy_in(a_.first_stream, &first_stream, sizeof first_stream);
}

int projection_index(TensorRole role) {
  const auto& roles = lora_target_roles();
  for (size_t i = 0; i < roles.size(); ++i)
    if (roles[i] == role) return static_cast<int>(i);
  ONGGI_CHECK(false, "role is a projection");
  return 0;
}

// Within the pass: the masks differ from layer to layer and from linear to linear.
uint64_t Pass::dropout_stream(TensorRole role, int64_t index) const {
  return static_cast<uint64_t>(index * kProjections + projection_index(role));
}

void Pass::linears(Linears roles, int64_t index, Activation x, std::initializer_list<Activation> outs,
                   ActivationView residual) {
  AdaptedLinearArgs args;
  args.x = x;
  args.tokens = tokens_;
  args.count = static_cast<int>(roles.size());
  args.residual = residual;
  args.dropout = lora_dropout();
  args.dropped = a_.dropped;
  args.precision = compute_.precision;
  auto member = args.members.begin();
  auto out = outs.begin();
  for (const TensorRole role : roles) {
    member->weight = layer(index).linear(role);
    member->lora = model_.lora(role, index);
    member->out = *out++;
    member->dropout_stream = dropout_stream(role, index);
    member->lora_u = block(index).lora_u[projection_index(role)];
    ++member;
  }
  args.x_stride = args.members[0].weight.columns + padding_;
  run_adapted_linear(compute_.ops, compute_.context, args);
}

AdaptedLinearBackwardArgs Pass::backward_args(Linears roles, int64_t index, ActivationView x,
                                              std::initializer_list<OutputGradient> douts,
                                              Activation dx) const {
  AdaptedLinearBackwardArgs args;
  args.x = x;
  args.tokens = tokens_;
  args.count = static_cast<int>(roles.size());
  args.dx = dx;
  args.dropout = lora_dropout();
  args.dropped = a_.dropped;
  args.d_dropped = a_.d_dropped;
  args.d_u = a_.d_u;
  args.precision = compute_.precision;
  auto member = args.members.begin();
  auto dout = douts.begin();
  for (const TensorRole role : roles) {
    member->weight = layer(index).linear(role);
    member->lora = model_.lora(role, index);
    member->dout = dout->data;
    member->dout_stride = member->weight.rows + dout->padding;
    ++dout;
    member->dropout_stream = dropout_stream(role, index);
    member->lora_u = block(index).lora_u[projection_index(role)];
    if (member->lora.a != nullptr) {
      const LoraEntry& entry = *model_.adapter->find(role, index);
      member->a_gradient = gradient_ + entry.a_offset;
      member->b_gradient = gradient_ + entry.b_offset;
    }
    ++member;
  }
  args.x_stride = args.members[0].weight.columns + padding_;
  return args;
}

// normed = RmsNorm(x); inverse_rms may be null.
void Pass::norm(Activation x, const float* weight, float* inverse_rms) {
  compute_.ops.rms_norm(compute_.context, {.x = x,
                                           .weight = weight,
                                           .tokens = tokens_,
                                           .width = config_.hidden_size,
                                           .epsilon = static_cast<float>(config_.rms_norm_eps),
                                           .out = a_.normed,
                                           .out_stride = config_.hidden_size + padding_,
                                           .inverse_rms = inverse_rms});
}

// d_x += the gradient of RmsNorm by its input, from d_normed.
void Pass::norm_backward(Activation x, const float* weight, const float* inverse_rms) {
  compute_.ops.rms_norm_backward(compute_.context, {.dout = a_.d_normed,
                                                    .x = x,
                                                    .weight = weight,
                                                    .inverse_rms = inverse_rms,
                                                    .tokens = tokens_,
                                                    .width = config_.hidden_size,
                                                    .dx = a_.d_x,
                                                    .dx_stride = config_.hidden_size + padding_,
                                                    .output = Output::kAccumulate});
}

AttentionArgs Pass::attention_args(BlockActivations& block) const {
  return {.q = block.rotated_query,
          .k = block.rotated_key,
          .v = block.value,
          .segments = segments_,
          .tokens = tokens_,
          .query_heads = config_.num_heads,
          .kv_heads = config_.num_kv_heads,
          .head_dim = config_.head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
          .out = block.attended,
          .out_stride = config_.q_size() + padding_,
          .log_sum_exp = block.log_sum_exp,
          .precision = compute_.precision};
}

void Pass::forward_block(int64_t index) {
  const LayerWeights& weights = layer(index);
  BlockActivations& b = block(index);
  const Activation x = a_.block_inputs[static_cast<size_t>(index)];
  const Activation out = a_.block_inputs[static_cast<size_t>(index) + 1];

  norm(x, weights.attention_norm, b.inverse_rms_attention);
  linears({TensorRole::kQ, TensorRole::kK, TensorRole::kV}, index, a_.normed, {b.query, b.key, b.value});
  run_head_norm_rope(model_, compute_, {weights.query_norm, a_.positions, tokens_, config_.num_heads},
                     b.query, b.rotated_query, b.inverse_rms_query);
  run_head_norm_rope(model_, compute_, {weights.key_norm, a_.positions, tokens_, config_.num_kv_heads}, b.key,
                     b.rotated_key, b.inverse_rms_key);
  compute_.ops.attention(compute_.context, attention_args(b));
  linears({TensorRole::kO}, index, b.attended, {b.middle}, x);

  norm(b.middle, weights.ffn_norm, b.inverse_rms_ffn);
  linears({TensorRole::kGate, TensorRole::kUp}, index, a_.normed, {b.gate, b.up});
  compute_.ops.swiglu(compute_.context, {.gate = b.gate,
                                         .up = b.up,
                                         .tokens = tokens_,
                                         .width = config_.intermediate_size,
                                         .out = a_.activated,
                                         .out_stride = config_.intermediate_size + padding_});
  linears({TensorRole::kDown}, index, a_.activated, {out}, b.middle);
}

void Pass::forward() {
  run_embedding(model_, compute_, a_.tokens, tokens_, a_.block_inputs[0]);
  layers_.begin(StreamedLayers::Direction::kForward);
  for (int64_t index = 0; index < config_.num_layers; ++index) {
    layers_.enter(index);
    forward_block(index);
    layers_.leave(index);
  }
}

void Pass::loss(const float* gradient_scale, float* per_label) {
  const int64_t width = config_.hidden_size, padded = width + padding_;
  const Activation hidden = a_.block_inputs.back();
  if (gradient_scale != nullptr)
    stream_.fill_zero(a_.d_x.data, static_cast<size_t>(dtype_bytes(a_.d_x.dtype, tokens_ * padded)));
  for (int64_t begin = 0; begin < label_count_; begin += a_.logit_rows) {
    const int64_t rows = std::min(a_.logit_rows, label_count_ - begin);
    compute_.ops.gather_rows(
        compute_.context,
        {.x = hidden, .rows = a_.labelled + begin, .count = rows, .width = width, .out = a_.head_input});
    run_rms_norm(model_, compute_, a_.head_input, model_.final_norm, rows, a_.head_normed, a_.head_inverse);
    run_linear(compute_, model_.lm_head, a_.head_normed, rows, a_.logits);
    compute_.ops.cross_entropy(compute_.context,
                               {.logits = a_.logits,
                                .labels = a_.labels + begin,
                                .rows = rows,
                                .vocabulary = config_.vocab_size,
                                .gradient_scale = gradient_scale == nullptr ? 0.0f : *gradient_scale,
                                .losses = a_.losses,
                                .loss_sum = a_.loss_sum,
                                .dlogits = gradient_scale == nullptr ? Activation() : a_.d_logits});
    if (per_label != nullptr)
      stream_.copy_out(per_label + begin, a_.losses, static_cast<size_t>(rows) * sizeof(float));
    if (gradient_scale == nullptr) continue;
    run_linear_backward(compute_, model_.lm_head, a_.d_logits, rows, a_.d_head, Output::kOverwrite);
    compute_.ops.rms_norm_backward(compute_.context, {.dout = a_.d_head,
                                                      .x = a_.head_input,
                                                      .weight = model_.final_norm,
                                                      .inverse_rms = a_.head_inverse,
                                                      .tokens = rows,
                                                      .width = width,
                                                      .dx = a_.head_normed,
                                                      .output = Output::kOverwrite});
    compute_.ops.scatter_rows(compute_.context, {.x = a_.head_normed,
                                                 .rows = a_.labelled + begin,
                                                 .count = rows,
                                                 .width = width,
                                                 .out = a_.d_x,
                                                 .out_stride = padded});
  }
}

void Pass::backward_ffn(int64_t index) {
  const LayerWeights& weights = layer(index);
  BlockActivations& b = block(index);
  // In place: gate becomes its own gradient; that of up, padded, takes the place of what down has read.
  run_gated_linear_backward(compute_.ops, compute_.context,
                            {.linear = backward_args({TensorRole::kDown}, index, a_.activated,
                                                     {{a_.d_x, padding_}}, a_.d_activated),
                             .activated = a_.activated,
                             .gate = b.gate,
                             .up = b.up,
                             .dgate = b.gate,
                             .dup = a_.activated,
                             .dup_stride = config_.intermediate_size + padding_});
  norm(b.middle, weights.ffn_norm, nullptr);
  linears_backward({TensorRole::kGate, TensorRole::kUp}, index, a_.normed,
                   {{b.gate}, {a_.activated, padding_}}, a_.d_normed);
  norm_backward(b.middle, weights.ffn_norm, b.inverse_rms_ffn);
}

void Pass::backward_attention(int64_t index) {
  const LayerWeights& weights = layer(index);
  BlockActivations& b = block(index);
  const Activation x = a_.block_inputs[static_cast<size_t>(index)];
  linears_backward({TensorRole::kO}, index, b.attended, {{a_.d_x, padding_}}, a_.d_attended);
  const AttentionArgs forward = attention_args(b);
  compute_.ops.attention_backward(compute_.context, {.dout = a_.d_attended,
                                                     .q = forward.q,
                                                     .k = forward.k,
                                                     .v = forward.v,
                                                     .out = forward.out,
                                                     .out_stride = forward.out_stride,
                                                     .log_sum_exp = forward.log_sum_exp,
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
  struct Heads {
    int64_t count;
    ActivationView input;
    const float* norm;
    const float* inverse_rms;
  };
  const auto rotate_back = [&](const Heads& heads, ActivationView gradient, Activation dx, int64_t padding) {
    compute_.ops.head_norm_rope_backward(compute_.context,
                                         {.dout = gradient,
                                          .x = heads.input,
                                          .weight = heads.norm,
                                          .positions = a_.positions,
                                          .inverse_rms = heads.inverse_rms,
                                          .tokens = tokens_,
                                          .heads = heads.count,
                                          .head_dim = config_.head_dim,
                                          .theta = config_.rope_theta,
                                          .dx = dx,
                                          .dx_stride = heads.count * config_.head_dim + padding});
  };
  rotate_back({config_.num_heads, b.query, weights.query_norm, b.inverse_rms_query}, a_.d_query,
              a_.d_attended, padding_);
  rotate_back({config_.num_kv_heads, b.key, weights.key_norm, b.inverse_rms_key}, a_.d_key, a_.d_key, 0);

  norm(x, weights.attention_norm, nullptr);
  // Nothing is trained below the first block's projections: their input's gradient is not needed.
  linears_backward({TensorRole::kQ, TensorRole::kK, TensorRole::kV}, index, a_.normed,
                   {{a_.d_attended, padding_}, {a_.d_key}, {a_.d_value}},
                   index == 0 ? Activation() : a_.d_normed);
  if (index > 0) norm_backward(x, weights.attention_norm, b.inverse_rms_attention);
}

void Pass::backward_block(int64_t index) {
  // The last block's activations are still there from the forward, whatever the policy.
  if (!keeps_all_ && index != config_.num_layers - 1) forward_block(index);
  backward_ffn(index);
  backward_attention(index);
}

void Pass::backward(float* gradient) {
  gradient_ = gradient;
  layers_.begin(StreamedLayers::Direction::kBackward);
  for (int64_t index = config_.num_layers - 1; index >= 0; --index) {
    layers_.enter(index);
    backward_block(index);
    layers_.leave(index);
  }
}

void Pass::all_logits(float* logits) {
  const int64_t width = config_.hidden_size;
  for (int64_t begin = 0; begin < tokens_; begin += a_.logit_rows) {
    const int64_t rows = std::min(a_.logit_rows, tokens_ - begin);
    run_rms_norm(model_, compute_, a_.block_inputs.back().at(begin * width), model_.final_norm, rows,
                 a_.head_normed, nullptr);
    run_linear(compute_, model_.lm_head, a_.head_normed, rows, a_.logits);
    stream_.copy_out(logits + begin * config_.vocab_size, a_.logits,
                     static_cast<size_t>(rows * config_.vocab_size) * sizeof(float));
  }
}

const DropoutState kNoDropout;

}  // namespace

int64_t count_labels(const TrainingBatch& batch) {
  return std::count_if(batch.labels.begin(), batch.labels.end(),
                       [](int32_t label) { return label != kNoLabel; });
}

double loss_of_batch(const Model& model, const Compute& compute, const TrainingBatch& batch,
                     TrainingMemory& memory, float* per_label) {
  Pass pass(model, compute, batch, kNoDropout, memory);
  pass.forward();
  pass.loss(nullptr, per_label);
  return memory.take_loss_sum();
}

void forward_backward(const Model& model, const Compute& compute, const TrainingBatch& batch,
                      const DropoutState& dropout, float loss_scale, TrainingMemory& memory,
                      float* gradient) {
  ONGGI_CHECK(model.adapter != nullptr);
  Pass pass(model, compute, batch, dropout, memory);
  pass.recorded_forward();
  pass.loss(&loss_scale, nullptr);
  if (pass.label_count() > 0) pass.recorded_backward(gradient);
}

void logits_of_batch(const Model& model, const Compute& compute, const TrainingBatch& batch,
                     TrainingMemory& memory, float* logits, const HiddenProbe* hidden) {
  Pass pass(model, compute, batch, kNoDropout, memory);
  pass.forward();
  pass.all_logits(logits);
  if (hidden != nullptr)
    copy_out_as_f32(compute.stream(), pass.after_block(hidden->after_block),
                    static_cast<int64_t>(batch.tokens.size()) * model.config.hidden_size, hidden->out);
}

}  // namespace onggi

#include "model/inference.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/linear.h"
#include "model/pass_data.h"

namespace onggi {
namespace {

enum Slot {
  kX,
  kNormed,
  kQuery,
  kKey,
  kValue,
  kAttended,
  kGate,
  kUp,
  kActivated,
  kLoraU,
  kSelected,
  kSelectedNormed,
  kLogitsOut,
  kPassData,
};
enum HostSlot { kHostLogits, kHostTop, kHostPassData };

// One pass over the model.
class Pass {
 public:
  Pass(const Model& model, const Compute& compute, KvCache& cache, const PassData& data,
       InferenceBuffers& buffers)
      : model_(model),
        config_(model.config),
        compute_(compute),
        cache_(cache),
        data_(data),
        buffers_(buffers),
        padding_(compute.ops.row_padding(compute.precision, model.adapter ? model.adapter->rank() : 0)) {
    const int64_t bytes = static_cast<int64_t>(data.words().size() * sizeof(int32_t));
    words_ = static_cast<int32_t*>(buffers.get(kPassData, bytes));
    x_ = floats(kX, data.tokens * config_.hidden_size);
  }

  void copy_in() {
    compute_.stream().copy_in(words_, data_.words().data(), data_.words().size() * sizeof(int32_t));
  }
  // The same from memory that keeps its address.
  void copy_in_from(const int32_t* words) {
    compute_.stream().copy(words_, words, data_.words().size() * sizeof(int32_t));
  }
  // Queues everything up to the logits. Returns them: f32 [M, V] on the device, null where none are wanted.
  float* run();

 private:
  using Linears = std::initializer_list<TensorRole>;

  float* floats(Slot slot, int64_t elements) {
    return static_cast<float*>(buffers_.get(slot, elements * static_cast<int64_t>(sizeof(float))));
  }
  // [rows, width] in the dtype of activations.
  Activation activations(Slot slot, int64_t rows, int64_t width) {
    const DType dtype = compute_.activation_dtype();
    return {buffers_.get(slot, dtype_bytes(dtype, rows * width)), dtype};
  }
  Activation activations(Slot slot, int64_t width) { return activations(slot, data_.tokens, width); }
  void block(int64_t index);
  float* logits();
  void attention(int64_t index, Activation q, Activation k, Activation v, Activation attended);
  AdaptedLinearArgs linears(Linears roles, int64_t index, Activation x,
                            std::initializer_list<Activation> outs);
  // The linears read RmsNorm(x).
  void normalize_first(AdaptedLinearArgs& args, const float* weight);

  const Model& model_;
  const ModelConfig& config_;
  const Compute& compute_;
  KvCache& cache_;
  const PassData& data_;
  InferenceBuffers& buffers_;
  int64_t padding_;
  int32_t* words_ = nullptr;  // data_'s words on the device
  float* x_ = nullptr;        // f32 [T, C], the residual stream
};

AdaptedLinearArgs Pass::linears(Linears roles, int64_t index, Activation x,
                                std::initializer_list<Activation> outs) {
  AdaptedLinearArgs args;
  args.x = x;
  args.tokens = data_.tokens;
  args.count = static_cast<int>(roles.size());
  args.precision = compute_.precision;
  if (model_.adapter) args.u = activations(kLoraU, model_.adapter->rank() * kMaxLinearGroup);
  auto member = args.members.begin();
  auto out = outs.begin();
  for (const TensorRole role : roles) {
    member->weight = model_.layers[static_cast<size_t>(index)].linear(role);
    member->lora = model_.lora(role, index);
    member->out = *out++;
    ++member;
  }
  args.x_stride = args.members[0].weight.columns + padding_;
  return args;
}

void Pass::normalize_first(AdaptedLinearArgs& args, const float* weight) {
  args.x_stride = config_.hidden_size;
  args.norm = weight;
  args.epsilon = static_cast<float>(config_.rms_norm_eps);
  args.normed = activations(kNormed, config_.hidden_size + padding_);
}

void Pass::attention(int64_t index, Activation q, Activation k, Activation v, Activation attended) {
  const LayerWeights& layer = model_.layers[static_cast<size_t>(index)];
  run_pass_attention(compute_.ops, compute_.context,
                     {.input = {.q = q,
                                .k = k,
                                .v = v,
                                .query_norm = layer.query_norm,
                                .key_norm = layer.key_norm,
                                .epsilon = static_cast<float>(config_.rms_norm_eps),
                                .theta = config_.rope_theta,
                                .cache = cache_.layer(index),
                                .sequences = data_.table(words_),
                                .tokens = data_.tokens,
                                .query_heads = config_.num_heads,
                                .kv_heads = config_.num_kv_heads,
                                .head_dim = config_.head_dim},
                      .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                      .out = attended,
                      .out_stride = config_.q_size() + padding_});
}

void Pass::block(int64_t index) {
  const ModelConfig& c = config_;
  const LayerWeights& layer = model_.layers[static_cast<size_t>(index)];
  const Activation q = activations(kQuery, c.q_size());
  const Activation k = activations(kKey, c.kv_size());
  const Activation v = activations(kValue, c.kv_size());
  const Activation attended = activations(kAttended, c.q_size() + padding_);

  AdaptedLinearArgs to_heads =
      linears({TensorRole::kQ, TensorRole::kK, TensorRole::kV}, index, x_, {q, k, v});
  normalize_first(to_heads, layer.attention_norm);
  run_adapted_linear(compute_.ops, compute_.context, to_heads);
  attention(index, q, k, v, attended);
  AdaptedLinearArgs from_heads = linears({TensorRole::kO}, index, attended, {x_});
  from_heads.residual = x_;
  run_adapted_linear(compute_.ops, compute_.context, from_heads);

  const Activation activated = activations(kActivated, c.intermediate_size + padding_);
  GatedLinearArgs gated{
      .linears = linears({TensorRole::kGate, TensorRole::kUp}, index, x_,
                         {activations(kGate, c.intermediate_size), activations(kUp, c.intermediate_size)}),
      .out = activated,
      .out_stride = c.intermediate_size + padding_};
  normalize_first(gated.linears, layer.ffn_norm);
  run_gated_linear(compute_.ops, compute_.context, gated);
  AdaptedLinearArgs down = linears({TensorRole::kDown}, index, activated, {x_});
  down.residual = x_;
  run_adapted_linear(compute_.ops, compute_.context, down);
}

float* Pass::run() {
  run_embedding(model_, compute_, data_.ids(words_), data_.tokens, x_);
  for (int64_t index = 0; index < config_.num_layers; ++index) block(index);
  return data_.wanted == 0 ? nullptr : logits();
}

float* Pass::logits() {
  const int64_t rows = data_.wanted, width = config_.hidden_size;
  float* selected = x_;
  if (rows != data_.tokens) {
    selected = floats(kSelected, rows * width);
    compute_.ops.gather_rows(
        compute_.context,
        {.x = x_, .rows = data_.wanted_rows(words_), .count = rows, .width = width, .out = selected});
  }
  float* logits = floats(kLogitsOut, rows * config_.vocab_size);
  AdaptedLinearArgs head;
  head.x = selected;
  head.x_stride = width;
  head.tokens = rows;
  head.count = 1;
  head.precision = compute_.precision;
  head.norm = model_.final_norm;
  head.epsilon = static_cast<float>(config_.rms_norm_eps);
  head.normed = activations(kSelectedNormed, rows, width);
  head.members[0].weight = model_.lm_head;
  head.members[0].out = logits;
  run_adapted_linear(compute_.ops, compute_.context, head);
  return logits;
}

// Where the likeliest tokens of a pass go: host memory that the device writes directly.
class TopOutput {
 public:
  // count 0: none are wanted.
  TopOutput(InferenceBuffers& buffers, int64_t rows, int64_t count) : rows_(rows), count_(count) {
    if (count == 0) return;
    const int64_t bytes = (2 * rows * count + rows) * static_cast<int64_t>(sizeof(float));
    values_ = static_cast<float*>(buffers.get_host(kHostTop, bytes));
  }
  void queue(const Compute& compute, const float* logits, int64_t vocabulary) const {
    if (count_ == 0) return;
    compute.ops.top_logits(compute.context, {.logits = logits,
                                             .rows = rows_,
                                             .vocabulary = vocabulary,
                                             .count = count_,
                                             .values = values_,
                                             .ids = ids(),
                                             .log_sum_exp = log_sum_exp()});
  }
  TopLogits result() const { return {count_, values_, ids(), log_sum_exp()}; }
  int64_t count() const { return count_; }

 private:
  int32_t* ids() const { return reinterpret_cast<int32_t*>(values_ + rows_ * count_); }
  float* log_sum_exp() const { return values_ + 2 * rows_ * count_; }

  int64_t rows_, count_;
  float* values_ = nullptr;
};

// Queues the pass and returns its logits on the device. Passes of one new token a sequence are recorded when
// they come again, where the device can: the host then gives a step one call, and the device goes from its
// table to its likeliest tokens without it.
float* queue(const Model& model, const Compute& compute, KvCache& cache,
             std::span<const SequenceInput> inputs, InferenceBuffers& buffers, const TopOutput& top) {
  const PassData data(model, inputs);
  Pass pass(model, compute, cache, data, buffers);
  const auto run = [&] {
    float* logits = pass.run();
    top.queue(compute, logits, model.config.vocab_size);
    return logits;
  };
  const auto advance = [&](float* logits) {
    for (const SequenceInput& input : inputs)
      input.sequence->advance(static_cast<int64_t>(input.tokens.size()));
    return logits;
  };
  const auto run_now = [&] {
    pass.copy_in();
    return advance(run());
  };
  const bool decodes = data.tokens == data.sequences && data.wanted == data.sequences;
  if (!decodes) return run_now();
  const auto bytes = static_cast<int64_t>(data.words().size() * sizeof(int32_t));
  auto* words = static_cast<int32_t*>(buffers.get_host(kHostPassData, bytes));
  // Who queued the last replay has waited for its results.
  std::copy(data.words().begin(), data.words().end(), words);
  const InferenceBuffers::PassKey key{data.sequences, data.longest, data.page_stride,
                                      data.wanted,    top.count(),  model.lm_head.data};
  const auto run_from_words = [&] {
    pass.copy_in_from(words);
    run();
  };
  if (!buffers.recordings().replay(compute.stream(), key, run_from_words)) return run_now();
  return advance(static_cast<float*>(
      buffers.get(kLogitsOut, data.wanted * model.config.vocab_size * static_cast<int64_t>(sizeof(float)))));
}

}  // namespace

uint64_t InferenceBuffers::bytes_for(const ModelConfig& config, const ActivationFormat& format,
                                     const InferenceShape& shape) {
  const int64_t t = shape.tokens, m = shape.rows, c = config.hidden_size, padding = format.row_padding;
  // As Pass takes them.
  const int64_t activations = t * (3 * padding + c + 2 * config.q_size() + 2 * config.kv_size() +
                                   3 * config.intermediate_size + shape.rank * kMaxLinearGroup) +
                              m * c;
  const int64_t floats = t * c + m * c + m * config.vocab_size;
  const int64_t words = 3 * t + 4 * m;
  return static_cast<uint64_t>(dtype_bytes(format.dtype, activations)) +
         sizeof(float) * static_cast<uint64_t>(floats) + sizeof(int32_t) * static_cast<uint64_t>(words);
}

int64_t logit_rows(std::span<const SequenceInput> inputs) {
  int64_t rows = 0;
  for (const SequenceInput& input : inputs) {
    if (input.logits == SequenceInput::Logits::kLast) rows += 1;
    if (input.logits == SequenceInput::Logits::kAll) rows += static_cast<int64_t>(input.tokens.size());
  }
  return rows;
}

const float* infer(const Model& model, const Compute& compute, KvCache& cache,
                   std::span<const SequenceInput> inputs, InferenceBuffers& buffers,
                   const Meanwhile& meanwhile) {
  const bool on_host = compute.stream().device().kind == DeviceKind::kCpu;
  const auto bytes = logit_rows(inputs) * model.config.vocab_size * static_cast<int64_t>(sizeof(float));
  void* host = on_host ? nullptr : buffers.get_host(kHostLogits, bytes);
  if (on_host && meanwhile) meanwhile();
  const float* logits = queue(model, compute, cache, inputs, buffers, TopOutput(buffers, 0, 0));
  if (on_host) return logits;
  if (logits != nullptr) compute.stream().copy(host, logits, static_cast<size_t>(bytes));
  if (meanwhile) meanwhile();
  if (logits == nullptr) return nullptr;
  compute.stream().synchronize();
  return static_cast<const float*>(host);
}

TopLogits infer_top(const Model& model, const Compute& compute, KvCache& cache,
                    std::span<const SequenceInput> inputs, InferenceBuffers& buffers, int64_t count,
                    const Meanwhile& meanwhile) {
  const int64_t rows = logit_rows(inputs);
  ONGGI_CHECK(rows > 0 && count > 0 && count <= kMaxTopLogits && compute.ops.top_logits != nullptr);
  const TopOutput top(buffers, rows, count);
  queue(model, compute, cache, inputs, buffers, top);
  if (meanwhile) meanwhile();
  compute.stream().synchronize();
  return top.result();
}

const float* logits_row(const Model& model, const Compute& compute, InferenceBuffers& buffers, int64_t row) {
  const auto bytes = model.config.vocab_size * static_cast<int64_t>(sizeof(float));
  const auto* logits = static_cast<const std::byte*>(buffers.get(kLogitsOut, (row + 1) * bytes));
  void* host = buffers.get_host(kHostLogits, bytes);
  compute.stream().copy(host, logits + row * bytes, static_cast<size_t>(bytes));
  compute.stream().synchronize();
  return static_cast<const float*>(host);
}

}  // namespace onggi

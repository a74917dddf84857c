#include "model/inference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "model/linear.h"

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
  kTopLogits,
};
enum HostSlot { kHostLogits, kHostTop };

// What a pass is made of, as the host lays it out before it is copied to the device in one piece.
class PassData {
 public:
  PassData(const Model& model, std::span<const SequenceInput> inputs);

  int64_t tokens = 0;     // T
  int64_t sequences = 0;  // S
  int64_t wanted = 0;     // M: rows whose logits are asked for
  int64_t longest_rows = 0;
  int64_t longest = 0;      // rounded up, so that passes of growing sequences look alike
  int64_t page_stride = 0;  // likewise

  const std::vector<int32_t>& words() const { return words_; }
  // Arrays within a copy of words() at `base`.
  const int32_t* ids(const int32_t* base) const { return base; }
  const int32_t* wanted_rows(const int32_t* base) const { return base + wanted_at_; }
  SequenceTable table(const int32_t* base) const {
    const int32_t* per_sequence = base + 3 * tokens;
    return {.pages = base + pages_at_,
            .page_stride = page_stride,
            .first_row = per_sequence,
            .rows = per_sequence + sequences,
            .past = per_sequence + 2 * sequences,
            .sequence = base + 2 * tokens,
            .positions = base + tokens,
            .count = sequences,
            .longest_rows = longest_rows,
            .longest = longest};
  }

 private:
  void add_tokens(std::span<const SequenceInput> inputs);
  void add_sequences(std::span<const SequenceInput> inputs);

  int64_t wanted_at_ = 0, pages_at_ = 0;
  std::vector<int32_t> words_;
};

PassData::PassData(const Model& model, std::span<const SequenceInput> inputs)
    : sequences(static_cast<int64_t>(inputs.size())), wanted(logit_rows(inputs)) {
  for (const SequenceInput& input : inputs) {
    const auto rows = static_cast<int64_t>(input.tokens.size());
    ONGGI_CHECK(rows > 0);
    check_ids(model, input.tokens.data(), rows);
    tokens += rows;
    longest_rows = std::max(longest_rows, rows);
    longest = std::max(longest, input.sequence->length() + rows);
    page_stride = std::max(page_stride, static_cast<int64_t>(input.sequence->pages().size()));
  }
  constexpr uint64_t kShortest = 256;
  longest = static_cast<int64_t>(std::bit_ceil(std::max(static_cast<uint64_t>(longest), kShortest)));
  page_stride = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(page_stride)));
  wanted_at_ = 3 * tokens + 3 * sequences;
  pages_at_ = wanted_at_ + wanted;
  words_.assign(static_cast<size_t>(pages_at_ + sequences * page_stride), 0);
  add_tokens(inputs);
  add_sequences(inputs);
}

void PassData::add_tokens(std::span<const SequenceInput> inputs) {
  int32_t* ids = words_.data();
  int32_t* positions = ids + tokens;
  int32_t* sequence = positions + tokens;
  int32_t* wanted_row = words_.data() + wanted_at_;
  int32_t row = 0;
  for (size_t s = 0; s < inputs.size(); ++s) {
    const SequenceInput& input = inputs[s];
    for (size_t i = 0; i < input.tokens.size(); ++i, ++row) {
      ids[row] = input.tokens[i];
      positions[row] = static_cast<int32_t>(input.sequence->length()) + static_cast<int32_t>(i);
      sequence[row] = static_cast<int32_t>(s);
      const bool last = i + 1 == input.tokens.size();
      if (input.logits == SequenceInput::Logits::kAll ||
          (input.logits == SequenceInput::Logits::kLast && last))
        *wanted_row++ = row;
    }
  }
}

void PassData::add_sequences(std::span<const SequenceInput> inputs) {
  int32_t* first_row = words_.data() + 3 * tokens;
  int32_t* rows = first_row + sequences;
  int32_t* past = rows + sequences;
  int32_t* pages = words_.data() + pages_at_;
  int32_t row = 0;
  for (size_t s = 0; s < inputs.size(); ++s) {
    const SequenceInput& input = inputs[s];
    first_row[s] = row;
    rows[s] = static_cast<int32_t>(input.tokens.size());
    past[s] = static_cast<int32_t>(input.sequence->length());
    row += rows[s];
    const std::span<const int32_t> own = input.sequence->pages();
    std::copy(own.begin(), own.end(), pages + static_cast<int64_t>(s) * page_stride);
  }
}

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
  const int64_t rows = data_.wanted, width = config_.hidden_size;
  if (rows == 0) return nullptr;
  float* selected = floats(kSelected, rows * width);
  compute_.ops.gather_rows(
      compute_.context,
      {.x = x_, .rows = data_.wanted_rows(words_), .count = rows, .width = width, .out = selected});
  const Activation normed = activations(kSelectedNormed, rows, width);
  run_rms_norm(model_, compute_, selected, model_.final_norm, rows, normed, nullptr);
  float* logits = floats(kLogitsOut, rows * config_.vocab_size);
  run_linear(compute_, model_.lm_head, normed, rows, logits);
  return logits;
}

// Queues the pass and returns its logits on the device. Passes of one new token a sequence are recorded when
// they come again, where the device can.
float* queue(const Model& model, const Compute& compute, KvCache& cache,
             std::span<const SequenceInput> inputs, InferenceBuffers& buffers) {
  const PassData data(model, inputs);
  Pass pass(model, compute, cache, data, buffers);
  pass.copy_in();
  const auto advance = [&](float* logits) {
    for (const SequenceInput& input : inputs)
      input.sequence->advance(static_cast<int64_t>(input.tokens.size()));
    return logits;
  };
  const bool decodes = data.tokens == data.sequences && data.wanted == data.sequences;
  if (!decodes) return advance(pass.run());
  const InferenceBuffers::PassKey key{data.sequences, data.longest, data.page_stride, data.wanted};
  if (buffers.recorded(key).runs++ == 0) return advance(pass.run());
  Stream& stream = compute.stream();
  auto& recording = buffers.recorded(key).recording;
  if (recording == nullptr) {
    recording = stream.record([&] { pass.run(); });
    if (recording == nullptr) return advance(pass.run());
  }
  stream.replay(*recording);
  return advance(static_cast<float*>(
      buffers.get(kLogitsOut, data.wanted * model.config.vocab_size * static_cast<int64_t>(sizeof(float)))));
}

}  // namespace

int64_t logit_rows(std::span<const SequenceInput> inputs) {
  int64_t rows = 0;
  for (const SequenceInput& input : inputs) {
    if (input.logits == SequenceInput::Logits::kLast) rows += 1;
    if (input.logits == SequenceInput::Logits::kAll) rows += static_cast<int64_t>(input.tokens.size());
  }
  return rows;
}

const float* infer(const Model& model, const Compute& compute, KvCache& cache,
                   std::span<const SequenceInput> inputs, InferenceBuffers& buffers) {
  const float* logits = queue(model, compute, cache, inputs, buffers);
  if (logits == nullptr || compute.stream().device().kind == DeviceKind::kCpu) return logits;
  const auto bytes = logit_rows(inputs) * model.config.vocab_size * static_cast<int64_t>(sizeof(float));
  void* host = buffers.get_host(kHostLogits, bytes);
  compute.stream().copy(host, logits, static_cast<size_t>(bytes));
  compute.stream().synchronize();
  return static_cast<const float*>(host);
}

TopLogits infer_top(const Model& model, const Compute& compute, KvCache& cache,
                    std::span<const SequenceInput> inputs, InferenceBuffers& buffers, int64_t count) {
  const int64_t rows = logit_rows(inputs), pairs = rows * count;
  ONGGI_CHECK(rows > 0 && count > 0 && count <= kMaxTopLogits && compute.ops.top_logits != nullptr);
  // Values, ids and sums in one piece, so that one copy brings them.
  const auto words = [&](int64_t at) { return at * static_cast<int64_t>(sizeof(float)); };
  const int64_t total = words(2 * pairs + rows);
  auto* device = static_cast<float*>(buffers.get(kTopLogits, total));
  auto* host = static_cast<float*>(buffers.get_host(kHostTop, total));
  const float* logits = queue(model, compute, cache, inputs, buffers);
  compute.ops.top_logits(compute.context, {.logits = logits,
                                           .rows = rows,
                                           .vocabulary = model.config.vocab_size,
                                           .count = count,
                                           .values = device,
                                           .ids = reinterpret_cast<int32_t*>(device + pairs),
                                           .log_sum_exp = device + 2 * pairs});
  compute.stream().copy(host, device, static_cast<size_t>(total));
  compute.stream().synchronize();
  return {count, host, reinterpret_cast<const int32_t*>(host + pairs), host + 2 * pairs};
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

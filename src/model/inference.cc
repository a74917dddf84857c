#include "model/inference.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "model/linear.h"

namespace onggi {
namespace {

enum Slot { kX, kNormed, kQuery, kKey, kValue, kAttended, kGate, kUp, kLoraU, kSelected, kLogitsOut, kSlots };

struct Pass {
  const Model& model;
  const Compute& compute;
  InferenceBuffers& buffers;
  int64_t tokens = 0;
  std::vector<int32_t> ids, positions;
  std::vector<SequenceRows> rows;

  float* slot(Slot which, int64_t width) { return buffers.get(which, tokens * width); }

  // out (+)= x W^T + LoRA.
  void linear(TensorRole role, int64_t layer, const float* x, float* out,
              Output output = Output::kOverwrite) {
    const WeightView& weight = model.layers[static_cast<size_t>(layer)].linear(role);
    run_linear(compute, weight, x, tokens, out, output);
    const LoraView lora = model.lora(role, layer);
    if (lora.a != nullptr) add_lora(compute, lora, weight, x, tokens, slot(kLoraU, lora.rank), out);
  }

  void block(int64_t index, const KvLayer& cache, float* x);
};

void Pass::block(int64_t index, const KvLayer& cache, float* x) {
  const ModelConfig& c = model.config;
  const LayerWeights& layer = model.layers[static_cast<size_t>(index)];
  float* normed = slot(kNormed, c.hidden_size);
  float* q = slot(kQuery, c.q_size());
  float* k = slot(kKey, c.kv_size());
  float* v = slot(kValue, c.kv_size());
  float* attended = slot(kAttended, c.q_size());

  run_rms_norm(model, compute, x, layer.attention_norm, tokens, normed, nullptr);
  linear(TensorRole::kQ, index, normed, q);
  linear(TensorRole::kK, index, normed, k);
  linear(TensorRole::kV, index, normed, v);
  run_head_norm_rope(model, compute, {layer.query_norm, positions.data(), tokens, c.num_heads}, q, q,
                     nullptr);
  run_head_norm_rope(model, compute, {layer.key_norm, positions.data(), tokens, c.num_kv_heads}, k, k,
                     nullptr);
  const auto sequences = static_cast<int64_t>(rows.size());
  compute.ops.kv_store(compute.context, {.k = k,
                                         .v = v,
                                         .cache = cache,
                                         .sequences = rows.data(),
                                         .sequence_count = sequences,
                                         .kv_heads = c.num_kv_heads,
                                         .head_dim = c.head_dim});
  compute.ops.cached_attention(compute.context, {.q = q,
                                                 .cache = cache,
                                                 .sequences = rows.data(),
                                                 .sequence_count = sequences,
                                                 .tokens = tokens,
                                                 .query_heads = c.num_heads,
                                                 .kv_heads = c.num_kv_heads,
                                                 .head_dim = c.head_dim,
                                                 .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                                                 .out = attended});
  linear(TensorRole::kO, index, attended, x, Output::kAccumulate);

  float* gate = slot(kGate, c.intermediate_size);
  float* up = slot(kUp, c.intermediate_size);
  run_rms_norm(model, compute, x, layer.ffn_norm, tokens, normed, nullptr);
  linear(TensorRole::kGate, index, normed, gate);
  linear(TensorRole::kUp, index, normed, up);
  compute.ops.swiglu(compute.context,
                     {.gate = gate, .up = up, .elements = tokens * c.intermediate_size, .out = gate});
  linear(TensorRole::kDown, index, gate, x, Output::kAccumulate);
}

}  // namespace

float* InferenceBuffers::get(int slot, int64_t elements) {
  if (slots_.size() <= static_cast<size_t>(slot)) slots_.resize(static_cast<size_t>(slot) + 1);
  std::vector<float>& memory = slots_[static_cast<size_t>(slot)];
  if (memory.size() < static_cast<size_t>(elements)) {
    memory = {};  // first, so that old and new do not add up
    memory.resize(static_cast<size_t>(elements));
  }
  return memory.data();
}

uint64_t InferenceBuffers::bytes() const {
  uint64_t total = 0;
  for (const auto& slot : slots_) total += slot.size() * sizeof(float);
  return total;
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
                   std::span<const SequenceInput> inputs, InferenceBuffers& buffers) {
  const int64_t width = model.config.hidden_size;
  Pass pass{model, compute, buffers, 0, {}, {}, {}};
  std::vector<int64_t> wanted;  // rows whose logits are asked for
  for (const SequenceInput& input : inputs) {
    ONGGI_CHECK(!input.tokens.empty());
    const auto first = static_cast<int32_t>(pass.ids.size());
    const auto past = static_cast<int32_t>(input.sequence->length());
    const auto count = static_cast<int32_t>(input.tokens.size());
    pass.rows.push_back({input.sequence->pages(), first, count, past});
    for (int32_t i = 0; i < count; ++i) {
      pass.ids.push_back(input.tokens[static_cast<size_t>(i)]);
      pass.positions.push_back(past + i);
      if (input.logits == SequenceInput::Logits::kAll ||
          (input.logits == SequenceInput::Logits::kLast && i == count - 1))
        wanted.push_back(first + i);
    }
  }
  pass.tokens = static_cast<int64_t>(pass.ids.size());

  float* x = pass.slot(kX, width);
  run_embedding(model, compute, pass.ids.data(), pass.tokens, x);
  for (int64_t layer = 0; layer < model.config.num_layers; ++layer) pass.block(layer, cache.layer(layer), x);
  for (const SequenceInput& input : inputs)
    input.sequence->advance(static_cast<int64_t>(input.tokens.size()));
  if (wanted.empty()) return nullptr;

  const auto rows = static_cast<int64_t>(wanted.size());
  float* selected = buffers.get(kSelected, rows * width);
  for (int64_t i = 0; i < rows; ++i)
    std::memcpy(selected + i * width, x + wanted[static_cast<size_t>(i)] * width,
                static_cast<size_t>(width) * sizeof(float));
  run_rms_norm(model, compute, selected, model.final_norm, rows, selected, nullptr);
  float* logits = buffers.get(kLogitsOut, rows * model.config.vocab_size);
  run_linear(compute, model.lm_head, selected, rows, logits);
  return logits;
}

}  // namespace onggi

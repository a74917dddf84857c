// A random model that the emulator trains in moments, and a pass over it.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <vector>

#include "model/training.h"
#include "tests/devices.h"

namespace onggi {

inline ModelConfig tiny_config(int64_t layers) {
  ModelConfig config;
  config.hidden_size = 128;
  config.num_layers = layers;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 64;
  config.intermediate_size = 192;
  config.vocab_size = 256;
  config.max_position_embeddings = 128;
  config.rms_norm_eps = 1e-6;
  config.rope_theta = 1e6;
  return config;
}

inline void give_adapter(Model& model, Stream& stream) {
  model.adapter = std::make_shared<LoraParameters>(model.config, lora_target_roles(), 8, 8.0);
  model.adapter->initialise(7);
  // B is not zero, so that A's gradients are not.
  for (size_t i = 0; i < model.adapter->values.size(); ++i)
    if (model.adapter->values[i] == 0) model.adapter->values[i] = 0.01f * static_cast<float>(i % 13) - 0.06f;
  model.adapter->place(stream);
}

inline std::shared_ptr<Model> tiny_model(int64_t layers, Placement placement, int64_t offloaded) {
  placement.offloaded_layers = offloaded;
  const auto model = random_model(tiny_config(layers), RandomBody::kNf4, 3, placement);
  give_adapter(*model, placement.stream);
  return model;
}

// Two samples of six tokens each, all with labels but the last.
struct TinyBatch {
  std::vector<int32_t> tokens, labels, starts{0, 6, 12};
  TinyBatch() : tokens(12) {
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 37 % 251);
    labels.assign(tokens.begin() + 1, tokens.end());
    labels.push_back(-100);
    labels[5] = -100;
  }
  TrainingBatch view() const { return {tokens, labels, starts}; }
};

// What passes give: the losses of a forward alone and of two whole passes, and the gradient of both.
struct PassResult {
  double evaluated = 0, trained = 0;
  std::vector<float> gradient;
  bool operator==(const PassResult&) const = default;
};

inline PassResult run_passes(const Model& model, const Compute& compute, ActivationPolicy policy) {
  const TinyBatch batch;
  Stream& stream = compute.stream();
  TrainingMemory memory(model, compute, static_cast<int64_t>(batch.tokens.size()), policy);
  PassResult result;
  result.gradient.resize(model.adapter->values.size());
  const Buffer gradient = stream.allocate(result.gradient.size() * sizeof(float));
  stream.fill_zero(gradient.data(), gradient.bytes());
  result.evaluated = loss_of_batch(model, compute, batch.view(), memory);
  for (uint64_t pass = 0; pass < 2; ++pass)
    forward_backward(model, compute, batch.view(), {0.1, 5, pass}, 0.1f, memory, gradient.as<float>());
  result.trained = memory.take_loss_sum();
  stream.copy_out(result.gradient.data(), gradient.data(), gradient.bytes());
  return result;
}

}  // namespace onggi

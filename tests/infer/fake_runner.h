// A stand-in for a model. It writes the ids of the tokens into the KV cache where a model writes keys and
// values, and continues what it reads back there, so that a page that is lost, mixed up or not copied shows.
#pragma once

#include <functional>
#include <vector>

#include "base/error.h"
#include "infer/engine.h"

namespace onggi {

inline ModelConfig tiny_config(int64_t context = 256) {
  ModelConfig config;
  config.hidden_size = 4;
  config.num_layers = 2;
  config.num_heads = 1;
  config.num_kv_heads = 1;
  config.head_dim = 2;
  config.intermediate_size = 4;
  config.vocab_size = 8192;
  config.max_position_embeddings = context;
  config.eos_token_ids = {8102, 8100};
  return config;
}

class FakeRunner : public StepRunner {
 public:
  // The token that follows a history.
  using Next = std::function<int32_t(const std::vector<int32_t>&)>;
  FakeRunner(const ModelConfig& config, Next next) : config_(config), next_(std::move(next)) {}

  const float* run(KvCache& cache, std::span<const SequenceInput> inputs,
                   const Meanwhile& meanwhile) override {
    meanwhile();
    return rows(cache, inputs, [this](const std::vector<int32_t>& history) {
      std::vector<float> row(static_cast<size_t>(config_.vocab_size), 0.0f);
      row[static_cast<size_t>(next_(history))] = 20.0f;
      return row;
    });
  }
  // The length of the history, and the token that would follow.
  const float* run_hidden(KvCache& cache, std::span<const SequenceInput> inputs) override {
    return rows(cache, inputs, [this](const std::vector<int32_t>& history) {
      std::vector<float> row(static_cast<size_t>(config_.hidden_size), 0.0f);
      row[0] = static_cast<float>(history.size());
      row[1] = static_cast<float>(next_(history));
      return row;
    });
  }

  bool warm_up(KvCache&, int64_t round, int64_t, int64_t) override { return on_warm_up && on_warm_up(round); }

  // Called on the engine's thread.
  std::function<void(std::span<const SequenceInput>)> before_run;
  std::function<bool(int64_t)> on_warm_up;

 private:
  template <typename RowOf>
  const float* rows(KvCache& cache, std::span<const SequenceInput> inputs, const RowOf& row_of) {
    rows_.clear();
    if (before_run) before_run(inputs);
    for (const SequenceInput& input : inputs) {
      KvSequence& sequence = *input.sequence;
      for (int32_t id : input.tokens) {
        write(cache, sequence, sequence.length(), id);
        sequence.advance(1);
      }
      if (input.logits == SequenceInput::Logits::kNone) continue;
      std::vector<int32_t> history;
      for (int64_t i = 0; i < sequence.length(); ++i) history.push_back(read(cache, sequence, i));
      const std::vector<float> row = row_of(history);
      rows_.insert(rows_.end(), row.begin(), row.end());
    }
    return rows_.data();
  }
  size_t element(const KvSequence& sequence, int64_t position) const {
    const int64_t page = sequence.pages()[position / kKvPageTokens];
    return static_cast<size_t>((page * kKvPageTokens + position % kKvPageTokens) * config_.kv_size());
  }
  void write(const KvCache& cache, const KvSequence& sequence, int64_t position, int32_t id) const {
    for (int64_t l = 0; l < config_.num_layers; ++l) {
      for (void* half : {cache.layer(l).keys, cache.layer(l).values}) {
        static_cast<float*>(half)[element(sequence, position)] = static_cast<float>(id);
      }
    }
  }
  int32_t read(const KvCache& cache, const KvSequence& sequence, int64_t position) const {
    const float id = static_cast<const float*>(cache.layer(0).keys)[element(sequence, position)];
    for (int64_t l = 0; l < config_.num_layers; ++l) {
      for (void* half : {cache.layer(l).keys, cache.layer(l).values}) {
        ONGGI_CHECK(static_cast<const float*>(half)[element(sequence, position)] == id, "layers agree");
      }
    }
    return static_cast<int32_t>(id);
  }

  ModelConfig config_;
  Next next_;
  std::vector<float> rows_;
};

}  // namespace onggi

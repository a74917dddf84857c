// The model in an engine: passes of infer() on one device.
#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "infer/engine.h"
#include "infer/hidden_head.h"

namespace onggi {
namespace {

class ModelRunner : public StepRunner {
 public:
  ModelRunner(std::shared_ptr<const Model> model, ComputeDevice& device, ThreadPool& threads,
              Precision precision)
      : model_(std::move(model)), session_(device, threads, precision), buffers_(device.stream()) {}

  const float* run(KvCache& cache, std::span<const SequenceInput> inputs,
                   const Meanwhile& meanwhile) override {
    return infer(*model_, session_.compute(), cache, inputs, buffers_, meanwhile);
  }
  int64_t most_top_logits() const override {
    return session_.compute().ops.top_logits != nullptr ? kMaxTopLogits : 0;
  }
  TopLogits run_top(KvCache& cache, std::span<const SequenceInput> inputs, int64_t count,
                    const Meanwhile& meanwhile) override {
    return infer_top(*model_, session_.compute(), cache, inputs, buffers_, count, meanwhile);
  }
  const float* row_of_last_top(int64_t row) override {
    return logits_row(*model_, session_.compute(), buffers_, row);
  }
  // Made at the first request for an embedding: most services never see one.
  const float* run_hidden(KvCache& cache, std::span<const SequenceInput> inputs) override {
    if (!hidden_head_) hidden_head_.emplace(*model_, session_.compute());
    return infer(hidden_head_->model(), session_.compute(), cache, inputs, buffers_);
  }
  void warm_up(KvCache& cache, int64_t prompt_tokens, int64_t sequences) override;
  Stream& stream() override { return session_.compute().stream(); }

 private:
  std::shared_ptr<const Model> model_;
  ComputeSession session_;
  InferenceBuffers buffers_;
  std::optional<HiddenHead> hidden_head_;
};

// The CPU has nothing to grow or load that takes long.
void ModelRunner::warm_up(KvCache& cache, int64_t prompt_tokens, int64_t sequences) {
  if (most_top_logits() == 0) return;
  // One prompt of so many tokens beside answers that get one each, as far as the cache has pages.
  const auto run = [&](int64_t tokens, int64_t answers) {
    std::vector<KvSequence> places;
    std::vector<SequenceInput> inputs;
    places.reserve(static_cast<size_t>(answers) + 1);
    const std::vector<int32_t> ids(static_cast<size_t>(std::min(tokens, cache.free_pages() * kKvPageTokens)));
    const auto add = [&](std::span<const int32_t> some) {
      if (!places.emplace_back(cache).reserve(static_cast<int64_t>(some.size()))) return;
      inputs.push_back({&places.back(), some});
    };
    add(ids);
    for (int64_t i = 0; i < answers; ++i) add(std::span(ids).first(1));
    run_top(cache, inputs, kMaxTopLogits, {});
  };
  run(prompt_tokens, sequences - 1);  // the largest first: memory grows once
  for (const int64_t tokens : {512, 128, 1})
    if (tokens < prompt_tokens) run(tokens, 0);
}

}  // namespace

std::unique_ptr<StepRunner> make_runner(std::shared_ptr<const Model> model, ComputeDevice& device,
                                        ThreadPool& threads, Precision precision) {
  return std::make_unique<ModelRunner>(std::move(model), device, threads, precision);
}

}  // namespace onggi

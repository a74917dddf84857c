// The model in an engine: passes of infer() on one device.
#include <optional>
#include <utility>

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
  Stream& stream() override { return session_.compute().stream(); }

 private:
  std::shared_ptr<const Model> model_;
  ComputeSession session_;
  InferenceBuffers buffers_;
  std::optional<HiddenHead> hidden_head_;
};

}  // namespace

std::unique_ptr<StepRunner> make_runner(std::shared_ptr<const Model> model, ComputeDevice& device,
                                        ThreadPool& threads, Precision precision) {
  return std::make_unique<ModelRunner>(std::move(model), device, threads, precision);
}

}  // namespace onggi

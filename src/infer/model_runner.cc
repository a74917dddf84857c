// The model in an engine: passes of infer() on one device.
#include <algorithm>
#include <bit>
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
  bool warm_up(KvCache& cache, int64_t round, int64_t prompt_tokens, int64_t sequences) override;
  Stream& stream() override { return session_.compute().stream(); }

 private:
  std::shared_ptr<const Model> model_;
  ComputeSession session_;
  InferenceBuffers buffers_;
  std::optional<HiddenHead> hidden_head_;
};

// Sizes of passes, the largest first, so that memory grows once. Products are chosen for each sixteenth of a
// size (kernels/cuda/matmul.cc), down to passes that do without them.
std::vector<int64_t> warm_up_sizes(int64_t most) {
  constexpr int64_t kLeast = 64;
  std::vector<int64_t> sizes;
  for (int64_t size = most; size > kLeast;) {
    sizes.push_back(size);
    const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(size - 1))) / 16;
    size = (size - 1) / step * step;
  }
  sizes.push_back(1);
  return sizes;
}

// The CPU has nothing to grow or choose that takes long.
bool ModelRunner::warm_up(KvCache& cache, int64_t round, int64_t prompt_tokens, int64_t sequences) {
  if (most_top_logits() == 0) return false;
  const std::vector<int64_t> sizes =
      warm_up_sizes(std::min(prompt_tokens, cache.free_pages() * kKvPageTokens));
  if (round >= static_cast<int64_t>(sizes.size())) return false;
  const std::vector<int32_t> ids(static_cast<size_t>(sizes[static_cast<size_t>(round)]));
  std::vector<KvSequence> places;
  std::vector<SequenceInput> inputs;
  places.reserve(static_cast<size_t>(sequences));
  const auto add = [&](std::span<const int32_t> some) {
    if (places.emplace_back(cache).reserve(static_cast<int64_t>(some.size())))
      inputs.push_back({&places.back(), some});
  };
  add(ids);
  if (inputs.empty()) return false;
  // The first beside as many answers as there may be.
  for (int64_t i = 1; round == 0 && i < sequences; ++i) add(std::span(ids).first(1));
  run_top(cache, inputs, kMaxTopLogits, {});
  return true;
}

}  // namespace

std::unique_ptr<StepRunner> make_runner(std::shared_ptr<const Model> model, ComputeDevice& device,
                                        ThreadPool& threads, Precision precision) {
  return std::make_unique<ModelRunner>(std::move(model), device, threads, precision);
}

}  // namespace onggi

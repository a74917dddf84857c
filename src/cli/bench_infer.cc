// `onggi bench prefill` and `onggi bench decode`.
#include "base/clock.h"
#include "base/text.h"
#include "cli/bench.h"

namespace onggi {

// With the choice of the most likely token, where the device makes it.
void Bench::run_pass(const Model& model, KvCache& cache, std::span<const SequenceInput> inputs,
                     InferenceBuffers& buffers) {
  if (compute_.ops.top_logits != nullptr) {
    infer_top(model, compute_, cache, inputs, buffers, 20);
  } else {
    infer(model, compute_, cache, inputs, buffers);
  }
}

void Bench::prefill() {
  const int64_t length = options_.tokens > 0 ? options_.tokens : 512;
  const auto model = random_model(config_, body("q4_k_m"), 1, device_.placement());
  if (options_.adapter) {
    model->adapter = std::make_shared<LoraParameters>(config_, lora_target_roles(), 16, 16.0);
    model->adapter->initialise(1);
    model->adapter->place(device_.stream());
  }
  KvCache cache(config_, (length + kKvPageTokens - 1) / kKvPageTokens, DType::kBF16, device_.stream());
  const auto tokens = random_tokens(length, 0);
  InferenceBuffers buffers(device_.stream());
  std::vector<double> seconds;
  for (int64_t repeat = 0; repeat <= options_.repeats; ++repeat) {
    KvSequence sequence(cache);
    sequence.reserve(length);
    const SequenceInput input{&sequence, tokens};
    const Stopwatch watch;
    run_pass(*model, cache, std::span(&input, 1), buffers);
    if (repeat > 0) seconds.push_back(watch.seconds());
  }
  const double rate = static_cast<double>(length) / median(seconds);
  const double operations = 2.0 * body_weights(config_);
  const double limit = product_rate(compute_);
  add(text("prefill of {} tokens", length), rate, "tok/s");
  add(text("operations"), operations / 1e9, "GFLOP/token");
  add(text("this machine's bf16 product in the same run"), limit / 1e9, "GFLOP/s");
  add(text("share of it"), 100 * rate * operations / limit, "%");
}

void Bench::decode() {
  const int64_t past = options_.tokens > 0 ? options_.tokens : 64;
  const int64_t generated = device_.is_gpu() ? 128 : 32;
  const auto model = random_model(config_, body("q4_k_m"), 1, device_.placement());
  if (options_.adapter) {
    model->adapter = std::make_shared<LoraParameters>(config_, lora_target_roles(), 16, 16.0);
    model->adapter->initialise(1);
    model->adapter->place(device_.stream());
  }
  const int64_t pages = (past + generated + kKvPageTokens) / kKvPageTokens + 1;
  KvCache cache(config_, options_.users * pages, DType::kBF16, device_.stream());
  InferenceBuffers buffers(device_.stream());
  std::vector<double> seconds;
  for (int64_t repeat = 0; repeat <= options_.repeats; ++repeat) {
    std::vector<KvSequence> sequences;
    std::vector<std::vector<int32_t>> next;
    for (int64_t user = 0; user < options_.users; ++user) {
      sequences.emplace_back(cache);
      next.push_back(random_tokens(past, static_cast<uint64_t>(user)));
    }
    const auto step = [&] {
      std::vector<SequenceInput> inputs;
      for (size_t user = 0; user < sequences.size(); ++user) {
        sequences[user].reserve(sequences[user].length() + static_cast<int64_t>(next[user].size()));
        inputs.push_back({&sequences[user], next[user]});
      }
      run_pass(*model, cache, inputs, buffers);
    };
    step();
    for (auto& tokens : next) tokens = {7};
    const Stopwatch watch;
    for (int64_t i = 0; i < generated; ++i) step();
    if (repeat > 0) seconds.push_back(watch.seconds());
  }
  const double rate = static_cast<double>(options_.users * generated) / median(seconds);
  // Of the embedding a step reads its tokens' rows, unless it is the output matrix as well.
  const WeightView& embedding = model->embedding;
  const int64_t unread = embedding.data == model->lm_head.data
                             ? 0
                             : dtype_bytes(embedding.dtype, embedding.rows * embedding.columns);
  const double bytes = static_cast<double>(model->weight_bytes) - static_cast<double>(unread);
  const double limit = device_.is_gpu() ? copy_rate(device_.stream()) : read_rate(threads_);
  add(text("decode, {} users after {} tokens", options_.users, past), rate, "tok/s");
  add(text("weights read a step"), bytes / 1e9, "GB");
  add(text("rate of reading"), rate / static_cast<double>(options_.users) * bytes / 1e9, "GB/s");
  add(text("this machine's memory in the same run"), limit / 1e9, "GB/s");
  add(text("share of it"), 100 * rate / static_cast<double>(options_.users) * bytes / limit, "%");
}

}  // namespace onggi

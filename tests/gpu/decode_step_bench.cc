// The time of a decode step on a card at the shape of Qwen3-8B in Q4_K_M, as a program that waits for each
// step's likeliest tokens sees it: what a layer adds, and what remains without layers (the embedding, the
// output matrix, the likeliest tokens, and the host between steps).
//
//   gpu_decode_step_bench [qlora] [users ...]        qlora: NF4 and an adapter of rank 16 instead
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/random.h"
#include "device/machine.h"
#include "model/compute_device.h"
#include "model/inference.h"
#include "model/model.h"

namespace onggi {
namespace {

constexpr int64_t kPast = 512, kSteps = 128, kFewLayers = 2, kMoreLayers = 18;
constexpr int64_t kTop = 20;

// Microseconds of a step: the median.
double time_step(const Compute& compute, const Model& model, int64_t users) {
  Stream& stream = compute.stream();
  const int64_t pages = (kPast + kSteps) / kKvPageTokens + 2;
  KvCache cache(model.config, users * pages, DType::kBF16, stream);
  InferenceBuffers buffers(stream);
  Random random(1);
  std::vector<KvSequence> sequences;
  std::vector<std::vector<int32_t>> next(static_cast<size_t>(users));
  for (auto& tokens : next) {
    sequences.emplace_back(cache);
    for (int64_t i = 0; i < kPast; ++i)
      tokens.push_back(static_cast<int32_t>(random.below(static_cast<uint32_t>(model.config.vocab_size))));
  }
  std::vector<double> times;
  for (int64_t step = 0; step <= kSteps; ++step) {
    const Stopwatch watch;
    std::vector<SequenceInput> inputs;
    for (size_t user = 0; user < next.size(); ++user) {
      sequences[user].reserve(sequences[user].length() + static_cast<int64_t>(next[user].size()));
      inputs.push_back({&sequences[user], next[user]});
    }
    const TopLogits top = infer_top(model, compute, cache, inputs, buffers, kTop);
    for (size_t user = 0; user < next.size(); ++user) next[user] = {top.ids[user * kTop]};
    times.push_back(1e6 * watch.seconds());
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void run(bool is_qlora, const std::vector<int64_t>& users) {
  ModelConfig config = published_config("qwen3-8b");
  const int64_t layers = config.num_layers;
  ComputeDevice device = open_device("cuda", describe_machine());
  ThreadPool threads(4);
  ComputeSession session(device, threads, Precision::kFast);
  std::vector<std::shared_ptr<Model>> models;
  for (const int64_t count : {kFewLayers, kMoreLayers}) {
    config.num_layers = count;
    models.push_back(
        random_model(config, is_qlora ? RandomBody::kNf4 : RandomBody::kQ4_K_M, 1, device.placement()));
    if (is_qlora) {
      models.back()->adapter = std::make_shared<LoraParameters>(config, lora_target_roles(), 16, 16.0);
      models.back()->adapter->initialise(1);
      models.back()->adapter->place(device.stream());
    }
  }
  for (const int64_t count : users) {
    time_step(session.compute(), *models[1], count);  // the clocks rise
    const double few = time_step(session.compute(), *models[0], count);
    const double more = time_step(session.compute(), *models[1], count);
    const double layer = (more - few) / static_cast<double>(kMoreLayers - kFewLayers);
    const double rest = few - kFewLayers * layer;
    std::printf("%3ld users: a layer %7.2f us, the rest %7.1f us: %ld layers %8.1f us\n", count, layer, rest,
                layers, rest + static_cast<double>(layers) * layer);
  }
}

}  // namespace
}  // namespace onggi

int main(int argc, char** argv) {
  try {
    std::vector<int64_t> users;
    bool is_qlora = false;
    for (int i = 1; i < argc; ++i) {
      if (std::string_view(argv[i]) == "qlora") {
        is_qlora = true;
      } else {
        users.push_back(std::atoll(argv[i]));
      }
    }
    if (users.empty()) users = {1, 5, 8, 32, 64};
    onggi::run(is_qlora, users);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

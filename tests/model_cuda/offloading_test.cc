// Layers in page-locked host memory: passes give the same bits as over a model that is on the device, and
// take the memory that was planned.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/streamed_layers.h"
#include "tests/model/golden.h"
#include "tests/model_cuda/tiny_model.h"
#include "tests/scratch.h"
#include "train/memory_plan.h"
#include "train/trainer.h"

namespace onggi {
namespace {

class Offloading : public ::testing::TestWithParam<TestDevice> {};

TEST(OffloadedLayers, AreSpreadEvenly) {
  for (const int64_t layers : {1, 5, 36})
    for (int64_t offloaded = 0; offloaded <= layers; ++offloaded) {
      int64_t count = 0, resident = 0, most_resident = 0;
      for (int64_t layer = 0; layer < layers; ++layer) {
        resident = is_offloaded(layer, layers, offloaded) ? 0 : resident + 1;
        most_resident = std::max(most_resident, resident);
        count += is_offloaded(layer, layers, offloaded) ? 1 : 0;
      }
      EXPECT_EQ(count, offloaded);
      if (offloaded > 0) {
        EXPECT_LE(most_resident, (layers - offloaded + offloaded - 1) / offloaded);
      }
    }
  EXPECT_FALSE(is_offloaded(-1, 5, 5));  // what is in no layer
}

TEST_P(Offloading, GivesTheSameBits) {
  constexpr int64_t kLayers = 4;
  for (const auto& [precision, policy] : {std::pair{Precision::kFast, ActivationPolicy::kKeepAll},
                                          {Precision::kFast, ActivationPolicy::kRecomputeBlocks},
                                          {Precision::kF32, ActivationPolicy::kRecomputeBlocks}}) {
    TestCompute session(GetParam(), precision);
    const auto resident = tiny_model(kLayers, session.placement(), 0);
    const PassResult expected = run_passes(*resident, session.compute, policy);
    EXPECT_GT(expected.evaluated, 0);
    EXPECT_NE(std::accumulate(expected.gradient.begin(), expected.gradient.end(), 0.0), 0);
    for (const int64_t offloaded : {1, 3, 4}) {
      const auto model = tiny_model(kLayers, session.placement(), offloaded);
      EXPECT_TRUE(run_passes(*model, session.compute, policy) == expected)
          << offloaded << " layers offloaded";
    }
  }
}

// Of a model whose weights are encoded while they are read.
TEST_P(Offloading, GivesTheSameBitsOfAModelInFiles) {
  TestCompute session(GetParam(), Precision::kFast);
  std::vector<PassResult> results;
  for (const auto quantization : {LoadQuantization::kNf4, LoadQuantization::kAsStored}) {
    for (const int64_t offloaded : {0, 3}) {
      Placement placement = session.placement();
      placement.offloaded_layers = offloaded;
      const uint64_t before = placement.stream.allocated_bytes();
      const auto model =
          load_model(kMini, {.quantization = quantization, .adapter = {}}, session.threads, placement);
      const WeightMemory measured = measure_weights(kMini, quantization, DeviceKind::kCuda);
      EXPECT_NEAR(static_cast<double>(placement.stream.allocated_bytes() - before),
                  static_cast<double>(measured.total - static_cast<uint64_t>(offloaded) * measured.layer),
                  0.002 * static_cast<double>(measured.total));
      give_adapter(*model, placement.stream);
      results.push_back(run_passes(*model, session.compute, ActivationPolicy::kRecomputeBlocks));
    }
    EXPECT_TRUE(results[results.size() - 2] == results.back());
  }
}

// A run goes on from a checkpoint with other layers offloaded, and ends where an undisturbed one ends.
TEST_P(Offloading, ARunIsResumedWithOtherLayersOffloaded) {
  TestCompute session(GetParam(), Precision::kFast);
  const Config config = parse_config(
      "model_name = \"tiny\"\n[training]\nmax_steps = 2\nsave_steps = 1\n"
      "per_device_train_batch_size = 1\ngradient_accumulation_steps = 2\n",
      "test");
  std::vector<Sample> samples;
  for (int32_t i = 0; i < 3; ++i) samples.push_back({1, {i, 40 + i, 90 - i}, {kNoLabel, 40 + i, 90 - i}, 3});
  const TrainData data{samples, {}, "data"};
  const TemporaryFolder folder;
  const auto run = [&](const char* name, int64_t offloaded) {
    const auto model = tiny_model(4, session.placement(), offloaded);
    const WeightMemory weights = measure_random_weights(model->config, RandomBody::kNf4, DeviceKind::kCuda);
    const TrainingPlan plan =
        plan_run(config, model->config, weights, data, session.compute, uint64_t{1} << 30);
    return train(config, *model, data, session.compute, folder.path() / name, plan, [](const StepRecord&) {});
  };
  run("whole", 0);
  run("resumed", 3);
  // Back to step 1, as a kill -9 after it would have left the folder.
  fs::remove_all(folder.path() / "resumed/checkpoint-2");
  fs::remove(folder.path() / "resumed/adapter_model.safetensors");
  EXPECT_EQ(run("resumed", 4).resumed_from, 1);
  for (const char* file : {"adapter_model.safetensors", "checkpoint-2/optimizer.safetensors"})
    EXPECT_EQ(read_file(folder.path() / "whole" / file), read_file(folder.path() / "resumed" / file)) << file;
}

// The plan against what the device's memory held at the most: weights, LoRA and optimiser, the pass.
TEST_P(Offloading, TakesTheMemoryThatWasPlanned) {
  ModelConfig config = tiny_config(8);
  config.hidden_size = 384;
  config.intermediate_size = 1152;
  const TinyBatch batch;
  TrainingNeeds needs{.model = config};
  needs.format = ActivationFormat::of(*GetParam().ops, DeviceKind::kCuda, Precision::kFast, 8);
  needs.weights = measure_random_weights(config, RandomBody::kNf4, DeviceKind::kCuda);
  needs.lora_parameters = lora_parameter_count(config, lora_target_roles(), 8);
  needs.rank = 8;
  needs.longest_sample = static_cast<int64_t>(batch.tokens.size());
  needs.samples_per_step = 1;
  for (const int64_t offloaded : {0, 5, 8}) {
    const TrainingPlan plan = plan_for(needs, {.tokens = needs.longest_sample,
                                               .policy = ActivationPolicy::kRecomputeBlocks,
                                               .offloaded_layers = offloaded});
    const auto own = make_cuda_stream(0);  // without the working memory of other tests
    Stream& stream = *own;
    TestCompute session({"cuda", GetParam().ops, own.get()}, Precision::kFast);
    Placement placement = session.placement();
    placement.offloaded_layers = offloaded;
    const auto model = random_model(config, RandomBody::kNf4, 3, placement);
    give_adapter(*model, stream);
    const size_t bytes = model->adapter->values.size() * sizeof(float);
    const Buffer first = stream.allocate(bytes), second = stream.allocate(bytes);
    run_passes(*model, session.compute, plan.policy);
    const auto peak = static_cast<double>(stream.peak_bytes());
    EXPECT_NEAR(static_cast<double>(plan.total_bytes) / peak, 1.0, 0.05)
        << offloaded << " layers offloaded: " << plan.to_text() << peak / 1048576 << " MiB measured";
    EXPECT_EQ(plan.on_host.bytes, static_cast<uint64_t>(offloaded) * needs.weights.layer);
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Offloading);
INSTANTIATE_TEST_SUITE_P(Devices, Offloading, ::testing::ValuesIn(test_devices()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace onggi

// Logits, gradients, a loss curve and merged logits against transformers, PEFT and bitsandbytes, in fp32.
#include "tests/model/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "model/inference.h"
#include "model/training.h"
#include "tests/devices.h"
#include "tests/metrics.h"

namespace onggi {
namespace {

// The kernels of every device must meet the reference.
class Golden : public ::testing::TestWithParam<TestDevice> {
 protected:
  TestCompute session{GetParam(), Precision::kF32};
  const Compute& compute = session.compute;
  bool is_slow() const { return GetParam().pace == TestDevice::Pace::kSlow; }

  void expect_logits(const std::string& file_name, LoadQuantization quantization, double bound) {
    const SafetensorsReader golden(file_name), prompts("tests/golden/logits.safetensors");
    const auto model = load_model(kMini, {.quantization = quantization, .adapter = {}}, session.threads,
                                  session.placement());
    TrainingMemory memory(*model, compute, 64, ActivationPolicy::kKeepAll);
    for (int prompt = 0; prompt < 4; ++prompt) {
      const std::string suffix = "." + std::to_string(prompt);
      const PlainBatch batch(ids_of(prompts, "ids" + suffix));
      std::vector<float> logits(batch.ids.size() * static_cast<size_t>(model->config.vocab_size));
      std::vector<float> hidden(batch.ids.size() * static_cast<size_t>(model->config.hidden_size));
      const HiddenProbe probe{0, hidden.data()};
      logits_of_batch(*model, compute, batch.view(), memory, logits.data(), &probe);
      const LargestError worst = largest_error(logits.data(), floats_of(golden, "logits" + suffix));
      EXPECT_LT(worst.error, bound) << "logits" << suffix << ", " << worst;
      std::printf("[ %s ] logits%s: %g\n", std::string(compute.ops.name).c_str(), suffix.c_str(),
                  worst.error);
      if (golden.has("hidden1" + suffix)) {
        const LargestError worst_hidden = largest_error(hidden.data(), floats_of(golden, "hidden1" + suffix));
        EXPECT_LT(worst_hidden.error, bound) << "hidden1" << suffix << ", " << worst_hidden;
      }
    }
  }
};

TEST_P(Golden, LogitsOfTheBaseModel) {
  expect_logits("tests/golden/logits.safetensors", LoadQuantization::kAsStored, 2e-3);
}

TEST_P(Golden, LogitsOfTheNf4Model) {
  expect_logits("tests/golden/logits_nf4.safetensors", LoadQuantization::kNf4, 2e-3);
}

TEST_P(Golden, GreedyContinuationsOverTheCache) {
  const auto json = nlohmann::json::parse(std::ifstream("tests/golden/reference.json"));
  const auto model = load_model(kMini, {}, session.threads, session.placement());
  for (const auto& entry : json.at("generate")) {
    const auto prompt = entry.at("prompt_ids").get<std::vector<int32_t>>();
    const auto expected = entry.at("greedy_ids").get<std::vector<int32_t>>();
    KvCache cache(model->config, 16, DType::kF32, compute.stream());
    KvSequence sequence(cache);
    InferenceBuffers buffers(compute.stream());
    std::vector<int32_t> generated, next = prompt;
    while (generated.size() < expected.size()) {
      ASSERT_TRUE(sequence.reserve(sequence.length() + static_cast<int64_t>(next.size())));
      const SequenceInput input{&sequence, next};
      const float* logits = infer(*model, compute, cache, std::span(&input, 1), buffers);
      generated.push_back(
          static_cast<int32_t>(std::max_element(logits, logits + model->config.vocab_size) - logits));
      next = {generated.back()};
    }
    EXPECT_EQ(generated, expected) << entry.at("prompt");
  }
}

struct GoldenSample {
  std::vector<int32_t> ids, labels;
};

std::vector<GoldenSample> golden_samples(const nlohmann::json& train) {
  std::vector<GoldenSample> samples;
  for (const auto& sample : train.at("samples"))
    samples.push_back({sample.at("input_ids").get<std::vector<int32_t>>(),
                       sample.at("labels").get<std::vector<int32_t>>()});
  return samples;
}

struct PackedSamples {
  std::vector<int32_t> ids, labels, starts{0};
  // Labels are shifted: position t predicts the token at t + 1.
  void add(const GoldenSample& sample) {
    ids.insert(ids.end(), sample.ids.begin(), sample.ids.end());
    labels.insert(labels.end(), sample.labels.begin() + 1, sample.labels.end());
    labels.push_back(-100);
    starts.push_back(static_cast<int32_t>(ids.size()));
  }
  int64_t label_count() const {
    return std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label != -100; });
  }
};

// The fast arithmetic: inputs of products rounded to bf16 (a relative error of 2^-9 each), on a GPU also the
// activations between the ops. Four blocks of about ten roundings each add up like a random walk to some
// 2^-9 sqrt(40) = 1.2 % of the logits' norm; twice that is allowed. Losses average over tokens.
constexpr double kFastLimit = 2.5e-2;

// How the samples of a step are run: the results must not differ.
enum class Packing { kOneBatch, kOneByOne };

void run_steps(TestCompute& session, Packing packing, ActivationPolicy policy, int steps) {
  const Compute& compute = session.compute;
  Stream& stream = compute.stream();
  const bool exact = compute.precision == Precision::kF32;
  const auto train = nlohmann::json::parse(std::ifstream("tests/golden/reference.json")).at("train");
  const auto samples = golden_samples(train);
  const auto model = load_model(kMini, {.quantization = LoadQuantization::kNf4, .adapter = {}},
                                session.threads, session.placement());
  model->adapter = std::make_shared<LoraParameters>(model->config, lora_target_roles(), 16, 16.0);
  LoraParameters& parameters = *model->adapter;
  read_golden_adapter("tests/golden/lora_init.safetensors", model->config, parameters, parameters.values);
  parameters.place(stream);
  TrainingMemory memory(*model, compute, 512, policy);
  const size_t count = parameters.values.size(), bytes = count * sizeof(float);
  std::vector<float> gradient(count);
  const Buffer device_gradient = stream.allocate(bytes), first = stream.allocate(bytes),
               second = stream.allocate(bytes), device_squares = stream.allocate(sizeof(double));
  stream.fill_zero(first.data(), bytes);
  stream.fill_zero(second.data(), bytes);
  const double learning_rate = train.at("lr0");
  const int total_steps = train.at("steps");
  for (int step = 0; step < steps; ++step) {
    stream.fill_zero(device_gradient.data(), bytes);
    std::vector<PackedSamples> passes;
    int64_t labels = 0;
    for (int i = 0; i < 4; ++i) {
      if (passes.empty() || packing == Packing::kOneByOne) passes.emplace_back();
      passes.back().add(samples[static_cast<size_t>((4 * step + i) % 5)]);
    }
    for (const auto& pass : passes) labels += pass.label_count();
    for (const auto& pass : passes)
      forward_backward(*model, compute, {pass.ids, pass.labels, pass.starts}, {},
                       1.0f / static_cast<float>(labels), memory, device_gradient.as<float>());
    const double loss = memory.take_loss_sum() / static_cast<double>(labels);
    stream.copy_out(gradient.data(), device_gradient.data(), bytes);
    const auto& expected = train.at("log").at(static_cast<size_t>(step));
    ASSERT_EQ(labels, expected.at("label_tokens").get<int64_t>());
    const double expected_loss = expected.at("loss");
    EXPECT_NEAR(loss, expected_loss, exact ? 5e-3 : 2 * kFastLimit) << "step " << step + 1;
    if (step < 10 && exact) {
      EXPECT_NEAR(loss / expected_loss, 1.0, 1e-3) << "step " << step + 1;
    }
    double squares = 0;
    compute.ops.sum_of_squares(compute.context, {device_gradient.as<float>(), static_cast<int64_t>(count),
                                                 device_squares.as<double>()});
    stream.copy_out(&squares, device_squares.data(), sizeof squares);
    const double norm = std::sqrt(squares);
    if (step < 10 && exact) {
      EXPECT_NEAR(norm / expected.at("grad_norm").get<double>(), 1.0, 5e-3) << "step " << step + 1;
    }
    const float clip = static_cast<float>(std::min(1.0, 1.0 / (norm + 1e-6)));
    if (step == 0) {
      std::vector<float> reference(count);
      read_golden_adapter("tests/golden/lora_grad0.safetensors", model->config, parameters, reference);
      double worst = 0;
      for (const LoraEntry& entry : parameters.entries()) {
        for (const auto& [offset, size] :
             {std::pair{entry.a_offset, 16 * entry.columns}, {entry.b_offset, 16 * entry.rows}}) {
          double difference = 0, norm_of_reference = 0;
          for (int64_t i = offset; i < offset + size; ++i) {
            const auto at = static_cast<size_t>(i);
            difference += std::pow(static_cast<double>(gradient[at]) * clip - reference[at], 2);
            norm_of_reference += std::pow(static_cast<double>(reference[at]), 2);
          }
          const double relative = std::sqrt(difference / std::max(norm_of_reference, 1e-30));
          if (norm_of_reference == 0) {
            EXPECT_EQ(difference, 0.0);
          } else {
            EXPECT_LT(relative, exact ? 1e-4 : 2 * kFastLimit)
                << model_tensor(model->config, entry.role, entry.layer).peft_module;
          }
          if (norm_of_reference > 0) worst = std::max(worst, relative);
        }
      }
      std::printf("[ %s ] gradients: worst relative norm error %g\n", std::string(compute.ops.name).c_str(),
                  worst);
    }
    compute.ops.adamw(
        compute.context,
        {.weights = parameters.device_values(),
         .gradient = device_gradient.as<float>(),
         .first_moment = first.as<float>(),
         .second_moment = second.as<float>(),
         .elements = static_cast<int64_t>(count),
         .sum_of_squares = device_squares.as<double>(),
         .max_norm = 1.0,
         .learning_rate = static_cast<float>(learning_rate * (1.0 - static_cast<double>(step) / total_steps)),
         .beta1 = 0.9f,
         .beta2 = 0.999f,
         .epsilon = 1e-8f,
         .weight_decay = 0,
         .step = step + 1});
    std::printf("[ %s ] step %d: loss %.6f, reference %.6f\n", std::string(compute.ops.name).c_str(),
                step + 1, loss, expected_loss);
  }
}

TEST_P(Golden, LossCurveAndFirstGradients) {
  // The oracle is too slow for all thirty.
  run_steps(session, Packing::kOneBatch, ActivationPolicy::kKeepAll, is_slow() ? 1 : 30);
}

TEST_P(Golden, UnpackedSamplesGiveTheSame) {
  if (is_slow()) GTEST_SKIP() << "the oracle runs the packed case";
  run_steps(session, Packing::kOneByOne, ActivationPolicy::kKeepAll, 3);
}

TEST_P(Golden, RecomputedBlocksGiveTheSame) {
  if (is_slow()) GTEST_SKIP() << "the oracle runs the other policy";
  run_steps(session, Packing::kOneBatch, ActivationPolicy::kRecomputeBlocks, 3);
}

TEST_P(Golden, MergedLogits) {
  if (is_slow()) GTEST_SKIP() << "too slow for the oracle";
  // base + adapter in fp32 arithmetic is the same function as the model merged in fp32.
  const SafetensorsReader golden("tests/golden/merged.safetensors");
  const auto model = load_model(kMini, {}, session.threads, session.placement());
  model->adapter = std::make_shared<LoraParameters>(model->config, lora_target_roles(), 16, 16.0);
  read_golden_adapter("tests/golden/adapter_final.safetensors", model->config, *model->adapter,
                      model->adapter->values);
  model->adapter->place(compute.stream());
  TrainingMemory memory(*model, compute, 128, ActivationPolicy::kRecomputeBlocks);
  for (int sample = 0; sample < 5; ++sample) {
    const std::string suffix = "." + std::to_string(sample);
    const PlainBatch batch(ids_of(golden, "ids" + suffix));
    std::vector<float> logits(batch.ids.size() * static_cast<size_t>(model->config.vocab_size));
    logits_of_batch(*model, compute, batch.view(), memory, logits.data());
    const LargestError worst = largest_error(logits.data(), floats_of(golden, "merged_logits" + suffix));
    EXPECT_LT(worst.error, 5e-3) << "sample " << sample << ", " << worst;
    std::printf("[ %s ] merged logits%s: %g\n", std::string(compute.ops.name).c_str(), suffix.c_str(),
                worst.error);
  }
}

class GoldenFast : public ::testing::TestWithParam<TestDevice> {
 protected:
  TestCompute session{GetParam(), Precision::kFast};
  const Compute& compute = session.compute;
};

TEST_P(GoldenFast, LogitsOfTheNf4Model) {
  if (GetParam().pace == TestDevice::Pace::kSlow) GTEST_SKIP() << "the oracle has one arithmetic";
  const SafetensorsReader golden("tests/golden/logits_nf4.safetensors"),
      prompts("tests/golden/logits.safetensors");
  const auto model = load_model(kMini, {.quantization = LoadQuantization::kNf4, .adapter = {}},
                                session.threads, session.placement());
  TrainingMemory memory(*model, compute, 64, ActivationPolicy::kKeepAll);
  for (int prompt = 0; prompt < 4; ++prompt) {
    const std::string suffix = "." + std::to_string(prompt);
    const PlainBatch batch(ids_of(prompts, "ids" + suffix));
    std::vector<float> logits(batch.ids.size() * static_cast<size_t>(model->config.vocab_size));
    logits_of_batch(*model, compute, batch.view(), memory, logits.data());
    const double error = relative_norm_error(logits, floats_of(golden, "logits" + suffix));
    EXPECT_LT(error, kFastLimit) << "logits" << suffix;
    std::printf("[ %s ] fast logits%s: relative norm error %g\n", std::string(compute.ops.name).c_str(),
                suffix.c_str(), error);
  }
}

TEST_P(GoldenFast, LossCurve) {
  if (GetParam().pace == TestDevice::Pace::kSlow) GTEST_SKIP() << "the oracle has one arithmetic";
  run_steps(session, Packing::kOneBatch, ActivationPolicy::kKeepAll, 10);
}

// What is trained is what is served: a prompt in one pass over the cache, and token by token, gives the
// logits of the training pass, with NF4 weights and an adapter.
TEST_P(GoldenFast, InferenceIsTheTrainedModel) {
  if (GetParam().ops == &ref_ops()) GTEST_SKIP() << "the oracle has one arithmetic";
  const SafetensorsReader prompts("tests/golden/logits.safetensors");
  const auto model = load_model(kMini, {.quantization = LoadQuantization::kNf4, .adapter = {}},
                                session.threads, session.placement());
  model->adapter = std::make_shared<LoraParameters>(model->config, lora_target_roles(), 16, 16.0);
  read_golden_adapter("tests/golden/adapter_final.safetensors", model->config, *model->adapter,
                      model->adapter->values);
  model->adapter->place(compute.stream());
  std::vector<int32_t> ids = ids_of(prompts, "ids.0");
  if (GetParam().pace == TestDevice::Pace::kSlow) ids.resize(3);
  const PlainBatch batch(ids);
  const auto vocabulary = static_cast<size_t>(model->config.vocab_size);
  std::vector<float> expected(batch.ids.size() * vocabulary);
  TrainingMemory memory(*model, compute, 64, ActivationPolicy::kKeepAll);
  logits_of_batch(*model, compute, batch.view(), memory, expected.data());

  KvCache cache(model->config, 16, compute.activation_dtype(), compute.stream());
  InferenceBuffers buffers(compute.stream());
  KvSequence whole(cache), stepwise(cache);
  ASSERT_TRUE(whole.reserve(static_cast<int64_t>(batch.ids.size())));
  const SequenceInput prompt{&whole, batch.ids, SequenceInput::Logits::kAll};
  const float* logits = infer(*model, compute, cache, std::span(&prompt, 1), buffers);
  EXPECT_TRUE(close_in_norm({logits, expected.size()}, expected, kFastLimit));
  for (size_t i = 0; i < batch.ids.size(); ++i) {
    ASSERT_TRUE(stepwise.reserve(static_cast<int64_t>(i) + 1));
    const SequenceInput token{&stepwise, std::span(batch.ids).subspan(i, 1)};
    const float* row = infer(*model, compute, cache, std::span(&token, 1), buffers);
    EXPECT_TRUE(
        close_in_norm({row, vocabulary}, std::span(expected).subspan(i * vocabulary, vocabulary), kFastLimit))
        << "token " << i;
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Golden);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenFast);
INSTANTIATE_TEST_SUITE_P(Devices, GoldenFast, ::testing::ValuesIn(test_devices()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Devices, Golden, ::testing::ValuesIn(test_devices()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace onggi

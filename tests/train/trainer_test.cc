// The training loop on onggi-mini: schedules, plans, and a resume that is the undisturbed run, bit for bit.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "tests/scratch.h"
#include "train/schedule.h"

namespace onggi {
namespace {

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_ = parse_config(
        "model_name = \"models/onggi-mini\"\n[training]\nmax_steps = 4\nsave_steps = 2\n"
        "learning_rate = 2e-3\n",
        "test");
    const Tokenizer tokenizer = Tokenizer::load("models/onggi-mini");
    samples_ =
        build_samples(load_dataset("data/tech_qa_ko.jsonl"), tokenizer, ChatTemplate::of(tokenizer)).samples;
  }

  TrainResult run(const Config& config, const fs::path& folder) {
    const auto model =
        load_model("models/onggi-mini", {.quantization = LoadQuantization::kNf4, .adapter = {}}, threads_);
    const Compute compute{cpu_ops(), {threads_, scratch_}, Precision::kFast};
    const TrainData data{samples_, validation_, "data"};
    const WeightMemory weights =
        measure_weights("models/onggi-mini", LoadQuantization::kNf4, DeviceKind::kCpu);
    EXPECT_EQ(weights.total, model->weight_bytes);
    const TrainingPlan plan = plan_run(config, model->config, weights, data, compute, uint64_t{4} << 30);
    return train(config, *model, data, compute, folder, plan, [](const StepRecord&) {});
  }

  // Two of the five samples are asked instead of taught.
  void use_validation_split() {
    validation_.assign(samples_.begin() + 3, samples_.end());
    samples_.resize(3);
  }
  // A number of training_log.jsonl, by step, where a line has it.
  std::map<int64_t, double> logged(const char* key, const std::string& run = ".") const {
    std::map<int64_t, double> values;
    std::istringstream lines(read_file(folder_ / run / "training_log.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.contains(key)) values[json.at("step").get<int64_t>()] = json.at(key).get<double>();
    }
    return values;
  }

  TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
  Config config_;
  std::vector<Sample> samples_, validation_;
  ThreadPool threads_{2};
  Scratch scratch_{2};
};

TEST_F(TrainerTest, ResumeIsTheUndisturbedRunBitForBit) {
  run(config_, folder_ / "whole");
  run(config_, folder_ / "resumed");
  // Back to step 2, as a kill -9 after it would have left the folder.
  fs::remove_all(folder_ / "resumed" / "checkpoint-4");
  fs::remove(folder_ / "resumed" / "adapter_model.safetensors");
  const TrainResult resumed = run(config_, folder_ / "resumed");
  EXPECT_EQ(resumed.resumed_from, 2);
  for (const char* file : {"adapter_model.safetensors", "checkpoint-4/adapter_model.safetensors",
                           "checkpoint-4/optimizer.safetensors", "checkpoint-4/trainer_state.json"})
    EXPECT_EQ(read_file(folder_ / "whole" / file), read_file(folder_ / "resumed" / file)) << file;
}

TEST_F(TrainerTest, AnotherConfigurationDoesNotResume) {
  run(config_, folder_);
  Config other = config_;
  other.training.learning_rate = 1e-3;
  EXPECT_EQ(run(other, folder_).resumed_from, 0);
}

TEST_F(TrainerTest, NonFiniteLossNamesStepAndLines) {
  Config wild = config_;
  wild.training.learning_rate = 1e30;
  wild.training.save_steps = 1;
  try {
    run(wild, folder_);
    FAIL() << "a loss that is not finite must stop the run";
  } catch (const WorkError& error) {
    EXPECT_NE(std::string(error.what()).find("of step 2 "), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("lines "), std::string::npos) << error.what();
  }
  EXPECT_TRUE(fs::exists(folder_ / "checkpoint-1" / "adapter_model.safetensors"));
}

TEST_F(TrainerTest, EvaluatesTheValidationSamples) {
  use_validation_split();
  config_.training.eval_steps = 3;
  run(config_, folder_);
  const auto losses = logged("eval_loss");
  ASSERT_EQ(losses.size(), 2u);  // at step 3, and at the end
  EXPECT_TRUE(losses.contains(3) && losses.contains(4));
  // The last one is the loss of the adapter that was saved, by the code that validation uses: evaluation
  // takes no part in training and no dropout.
  const auto tuned =
      load_model("models/onggi-mini", {.quantization = LoadQuantization::kNf4, .adapter = folder_}, threads_);
  const Compute compute{cpu_ops(), {threads_, scratch_}, Precision::kFast};
  TrainingMemory memory(*tuned, compute, 256, ActivationPolicy::kRecomputeBlocks);
  double sum = 0, labels = 0;
  for (uint32_t i = 0; i < validation_.size(); ++i) {
    const PackedBatch batch = pack(validation_, std::span(&i, 1));
    sum += loss_of_batch(*tuned, compute, {batch.tokens, batch.labels, batch.segment_starts}, memory);
    labels += static_cast<double>(batch.label_count());
  }
  EXPECT_NEAR(losses.at(4), sum / labels, 1e-3 * losses.at(4));
  EXPECT_LT(losses.at(4), losses.at(3));  // the first steps teach
}

TEST_F(TrainerTest, EvaluationDoesNotChangeTheRun) {
  use_validation_split();
  config_.training.eval_steps = 1;
  run(config_, folder_ / "often");
  config_.training.eval_steps = 4;
  run(config_, folder_ / "once");
  EXPECT_EQ(read_file(folder_ / "often/adapter_model.safetensors"),
            read_file(folder_ / "once/adapter_model.safetensors"));
  EXPECT_EQ(logged("loss", "often"), logged("loss", "once"));
}

TEST_F(TrainerTest, StopsEarlyAfterPatience) {
  use_validation_split();
  // So large a rate ruins the model at once: no evaluation is better than the first.
  config_.training.learning_rate = 0.5;
  config_.training.max_steps = 10;
  config_.training.eval_steps = 1;
  config_.training.early_stopping_patience = 2;
  const TrainResult result = run(config_, folder_);
  EXPECT_TRUE(result.stopped_early);
  EXPECT_EQ(result.best_step, 1);
  EXPECT_EQ(result.steps, 3);
  EXPECT_TRUE(fs::exists(folder_ / "checkpoint-3"));
  const auto losses = logged("eval_loss");
  ASSERT_EQ(losses.size(), 3u);
  EXPECT_DOUBLE_EQ(losses.at(1), result.best_evaluation_loss);
  EXPECT_GE(losses.at(2), losses.at(1));
  EXPECT_GE(losses.at(3), losses.at(1));
  // Without best-at-end, the last step is what stays.
  EXPECT_EQ(read_file(folder_ / "adapter_model.safetensors"),
            read_file(folder_ / "checkpoint-3/adapter_model.safetensors"));
}

TEST_F(TrainerTest, LoadsTheBestModelAtTheEnd) {
  use_validation_split();
  config_.training.learning_rate = 0.5;
  config_.training.eval_steps = 1;
  config_.training.save_steps = 4;
  config_.training.save_total_limit = 1;  // the best one is not among the newest, and is kept
  config_.training.load_best_model_at_end = true;
  const TrainResult result = run(config_, folder_);
  EXPECT_FALSE(result.stopped_early);
  EXPECT_EQ(result.steps, 4);
  ASSERT_EQ(result.best_step, 1);
  EXPECT_EQ(read_file(folder_ / "adapter_model.safetensors"),
            read_file(folder_ / "checkpoint-1/adapter_model.safetensors"));
  EXPECT_NE(read_file(folder_ / "adapter_model.safetensors"),
            read_file(folder_ / "checkpoint-4/adapter_model.safetensors"));
}

TEST_F(TrainerTest, PatienceSurvivesAResume) {
  use_validation_split();
  config_.training.learning_rate = 0.5;
  config_.training.max_steps = 10;
  config_.training.eval_steps = 1;
  config_.training.save_steps = 2;
  config_.training.early_stopping_patience = 2;
  run(config_, folder_);
  fs::remove_all(folder_ / "checkpoint-3");
  const TrainResult resumed = run(config_, folder_);
  EXPECT_EQ(resumed.resumed_from, 2);
  EXPECT_TRUE(resumed.stopped_early);
  EXPECT_EQ(resumed.steps, 3);
  EXPECT_EQ(resumed.best_step, 1);
}

TEST_F(TrainerTest, TooLittleMemoryNamesWhatWouldFit) {
  const auto model = load_model("models/onggi-mini", {}, threads_);
  TrainingNeeds needs{.model = model->config};
  needs.weights.total = model->weight_bytes;
  needs.rank = 16;
  needs.longest_sample = 2048;
  needs.samples_per_step = 4;
  needs.budget_bytes = uint64_t{8} << 30;
  EXPECT_EQ(plan_training(config_, needs).policy, ActivationPolicy::kKeepAll);
  const uint64_t recomputed =
      TrainingMemory::bytes({model->config, {}, 16, 2048, ActivationPolicy::kRecomputeBlocks}) +
      needs.weights.total;
  needs.budget_bytes = recomputed + (uint64_t{16} << 20);
  EXPECT_EQ(plan_training(config_, needs).policy, ActivationPolicy::kRecomputeBlocks);
  needs.budget_bytes = needs.weights.total + (uint64_t{60} << 20);
  EXPECT_THROW(plan_training(config_, needs), MachineError);
}

// A GPU's plans for Qwen3-8B in NF4, samples of 256 tokens, four a step.
class OffloadingPlan : public ::testing::Test {
 protected:
  TrainingPlan plan(uint64_t budget_mib) {
    needs_.budget_bytes = budget_mib << 20;
    return plan_training(config_, needs_);
  }

  const Config config_;
  const ModelConfig model_ = published_config("qwen3-8b");
  TrainingNeeds needs_{.model = model_,
                       .format = {DeviceKind::kCuda, DType::kBF16, 64, uint64_t{32} << 20},
                       .weights = measure_random_weights(model_, RandomBody::kNf4, DeviceKind::kCuda),
                       .lora_parameters = lora_parameter_count(model_, lora_target_roles(), 16),
                       .rank = 16,
                       .longest_sample = 256,
                       .samples_per_step = 4};
};

TEST_F(OffloadingPlan, CountsTheWeightsOfTheCard) {
  // 6.95 billion weights at 4.127 bits and the output matrix; the embedding is read from host memory.
  EXPECT_NEAR(static_cast<double>(needs_.weights.total), 6.946e9 * 4.127 / 8 + 151936.0 * 4096 * 2, 1e7);
  EXPECT_NEAR(static_cast<double>(needs_.weights.layer), 6.946e9 * 4.127 / 8 / 36, 1e5);
}

// Room for one pass of the step is made by offloading rather than by shorter passes or recomputing: on an
// H200, 8 GiB trained 8,428 tok/s so (with all recomputed) and 7,898 in passes of 512 tokens.
TEST_F(OffloadingPlan, MakesRoomForWholePasses) {
  const TrainingPlan roomy = plan(40960);
  EXPECT_EQ(roomy.policy, ActivationPolicy::kKeepAll);
  EXPECT_EQ(roomy.offloaded_layers, 0);
  EXPECT_EQ(roomy.on_host.bytes, 0u);
  const TrainingPlan tight = plan(8192);
  EXPECT_EQ(tight.policy, ActivationPolicy::kKeepAll);
  EXPECT_EQ(tight.tokens_per_pass, 1024);
  EXPECT_GT(tight.offloaded_layers, 0);
  EXPECT_LE(tight.total_bytes, uint64_t{8} << 30);
  // Recomputing one pass of all is cheaper than two that keep all.
  const TrainingPlan tighter = plan(6144);
  EXPECT_EQ(tighter.policy, ActivationPolicy::kRecomputeBlocks);
  EXPECT_EQ(tighter.tokens_per_pass, 1024);
  // Nothing is offloaded where all of it fits.
  EXPECT_EQ(plan((roomy.total_bytes >> 20) + 1).offloaded_layers, 0);
  EXPECT_GT(plan(roomy.total_bytes >> 20).offloaded_layers, 0);
}

TEST_F(OffloadingPlan, OffloadsAsFewLayersAsFit) {
  int64_t before = 0;
  for (const uint64_t budget : {5632, 5120, 4608, 4096, 3584, 3072}) {
    const TrainingPlan offloaded = plan(budget);
    EXPECT_LE(offloaded.total_bytes, budget << 20);
    EXPECT_GE(offloaded.offloaded_layers, before);
    EXPECT_EQ(offloaded.on_host.bytes,
              static_cast<uint64_t>(offloaded.offloaded_layers) * needs_.weights.layer);
    const TrainingPlan fewer = plan_for(needs_, {.tokens = offloaded.tokens_per_pass,
                                                 .policy = offloaded.policy,
                                                 .offloaded_layers = offloaded.offloaded_layers - 1});
    EXPECT_GT(fewer.total_bytes, budget << 20);
    before = offloaded.offloaded_layers;
  }
  // Two layers' weights lie in buffers: what offloading the other 34 takes away.
  const TrainingPlan all = smallest_plan(config_, needs_);
  EXPECT_EQ(all.offloaded_layers, 36);
  EXPECT_EQ(all.tokens_per_pass, 256);
  EXPECT_EQ(all.total_bytes + 34 * needs_.weights.layer,
            plan_for(needs_, {.tokens = 256, .policy = all.policy}).total_bytes);
}

TEST_F(OffloadingPlan, NamesWhatWouldFitWhenOffloadingDoesNotSuffice) {
  needs_.longest_sample = 8192;
  const auto message = [&](uint64_t budget_mib) {
    try {
      plan(budget_mib);
    } catch (const MachineError& error) {
      EXPECT_EQ(error.exit_code(), ExitCode::kMachine);
      return std::string(error.what());
    }
    return std::string("it fits");
  };
  const uint64_t short_passes = smallest_plan(config_, needs_).total_bytes / 2 >> 20;
  EXPECT_NE(message(short_passes).find("set cutoff_len = "), std::string::npos) << message(short_passes);
  EXPECT_NE(message(1024).find("take a smaller model"), std::string::npos) << message(1024);
}

TEST_F(OffloadingPlan, LeavesTheCpuAlone) {
  needs_.format = {};
  EXPECT_EQ(smallest_plan(config_, needs_).offloaded_layers, 0);
  EXPECT_THROW(plan(4096), MachineError);
}

TEST(Schedule, LinearAsTransformers) {
  TrainingConfig config;
  config.max_steps = 10;
  config.learning_rate = 1.0;
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 0), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 9), 0.1);
  config.warmup_steps = 2;
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 1), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 6), 0.5);
  config.lr_scheduler_type = TrainingConfig::Scheduler::kCosine;
  EXPECT_NEAR(learning_rate_at(config, 6), 0.5, 1e-12);
}

}  // namespace
}  // namespace onggi

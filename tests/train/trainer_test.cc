// The training loop on onggi-mini: schedules, plans, and a resume that is the undisturbed run, bit for bit.
#include "train/trainer.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "train/schedule.h"

namespace onggi {
namespace {

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("onggi_train_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    config_ = parse_config(
        "model_name = \"models/onggi-mini\"\n[training]\nmax_steps = 4\nsave_steps = 2\n"
        "learning_rate = 2e-3\n",
        "test");
    const Tokenizer tokenizer = Tokenizer::load("models/onggi-mini");
    samples_ =
        build_samples(load_dataset("data/tech_qa_ko.jsonl"), tokenizer, ChatTemplate::of(tokenizer)).samples;
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainResult run(const Config& config, const fs::path& folder) {
    const auto model =
        load_model("models/onggi-mini", {.quantization = LoadQuantization::kNf4, .adapter = {}}, threads_);
    const Compute compute{cpu_ops(), {threads_, scratch_}, Precision::kFast};
    return train(config, *model, {samples_, {}, "data"}, compute, folder, uint64_t{4} << 30,
                 [](const StepRecord&) {});
  }

  fs::path folder_;
  Config config_;
  std::vector<Sample> samples_;
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

TEST_F(TrainerTest, TooLittleMemoryNamesWhatWouldFit) {
  const auto model = load_model("models/onggi-mini", {}, threads_);
  TrainingNeeds needs{.model = model->config};
  needs.weight_bytes = model->weight_bytes;
  needs.rank = 16;
  needs.longest_sample = 2048;
  needs.samples_per_step = 4;
  needs.budget_bytes = uint64_t{8} << 30;
  EXPECT_EQ(plan_training(config_, needs).policy, ActivationPolicy::kKeepAll);
  const uint64_t recomputed =
      TrainingMemory::bytes({model->config, {}, 16, 2048, ActivationPolicy::kRecomputeBlocks}) +
      needs.weight_bytes;
  needs.budget_bytes = recomputed + (uint64_t{16} << 20);
  EXPECT_EQ(plan_training(config_, needs).policy, ActivationPolicy::kRecomputeBlocks);
  needs.budget_bytes = needs.weight_bytes + (uint64_t{60} << 20);
  EXPECT_THROW(plan_training(config_, needs), MachineError);
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

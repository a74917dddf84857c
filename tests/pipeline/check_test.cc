#include "pipeline/check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/human.h"
#include "pipeline/text_table.h"

namespace onggi {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kGB = 1'000'000'000;

CheckInputs machine_of(uint64_t memory_gb, uint64_t disk_gb) {
  CheckInputs inputs;
  inputs.machine.cpu = {"Test CPU", 4, 8, 8, {"AVX2", "FMA"}};
  inputs.machine.memory = {memory_gb * kGB, memory_gb * kGB, 0, 0};
  inputs.machine.gpu.problem = "no NVIDIA driver is installed";
  inputs.cache_folder = "/nonexistent/cache";
  inputs.output_disk_free = disk_gb * kGB;
  inputs.cache_disk_free = disk_gb * kGB + 1;
  return inputs;
}

CheckInputs with_gpu(CheckInputs inputs, uint64_t memory_gb, int cuda_version) {
  inputs.machine.gpu = {{{"Test GPU", memory_gb * kGB, memory_gb * kGB, 90}}, "570", cuda_version, ""};
  return inputs;
}

Verdict stage_of(const ModelPlan& plan, const std::string& name) {
  for (const StageVerdict& stage : plan.stages) {
    if (stage.need.stage == name) return stage.overall();
  }
  ADD_FAILURE() << "no stage " << name;
  return Verdict::kShort;
}

TEST(ModelSize, EqualsThePublishedCounts) {
  // Parameters as the models' cards have them; LoRA's count at r = 16 on all seven projections as PEFT prints
  // it.
  const Config config = parse_config("", "defaults");
  EXPECT_EQ(measure_model(published_config("Qwen3-8B"), config).parameters, 8'190'735'360u);
  EXPECT_EQ(measure_model(published_config("Qwen3-8B"), config).lora_parameters, 43'646'976u);
  EXPECT_EQ(measure_model(published_config("Qwen3-4B"), config).parameters, 4'022'468'096u);
  EXPECT_EQ(measure_model(published_config("Qwen3-14B"), config).parameters, 14'768'307'200u);
  EXPECT_EQ(measure_model(published_config("Qwen3-32B"), config).parameters, 32'762'123'264u);
  EXPECT_EQ(measure_model(published_config("Qwen3-0.6B"), config).parameters, 596'049'920u);
}

TEST(ModelSize, FollowsTheConfiguration) {
  const ModelConfig model = published_config("Qwen3-8B");
  const ModelSize half = measure_model(model, parse_config("[lora]\nr = 8\n", "test"));
  EXPECT_EQ(half.lora_parameters * 2, 43'646'976u);
  const ModelSize wide = measure_model(model, parse_config("[quantization]\nload_in_4bit = false\n", "test"));
  EXPECT_EQ(wide.bytes_training, wide.bytes_16bit);
  // 6.95 of 8.19 billion weights at 4.127 bits, the others (embedding, output) at 16.
  EXPECT_NEAR(static_cast<double>(half.bytes_training) / 1e9, (6.946e9 * 4.127 / 8 + 1.2452e9 * 2) / 1e9,
              0.02);
}

TEST(StageNeeds, StayBelowTheSeedsTable) {
  const Config config = parse_config("", "defaults");
  for (const ModelRequirements& row : seed_requirements()) {
    const ModelConfig model = published_config(row.model);
    for (const StageNeed& need : estimate_stages({config, model, 8})) {
      EXPECT_LE(need.memory_minimum, need.memory_full) << need.stage;
      if (need.stage == "train") {
        EXPECT_LE(need.memory_minimum, row.training_vram.recommended * kGB) << row.model;
      }
      if (need.stage == "merge") {
        EXPECT_LE(need.memory_minimum, kGB) << row.model;
      }
    }
  }
}

TEST(StageNeeds, StreamingFollowsTheLargestTensor) {
  const auto minimum_of = [](const char* model, const std::string& toml, size_t stage) {
    return estimate_stages({parse_config(toml, "test"), published_config(model), 2})[stage].memory_minimum;
  };
  constexpr size_t kMerge = 3, kConvert = 4;
  const std::string original = "[merge]\nbase = \"original\"\n";
  // Qwen3-8B's largest projection is 12288 x 4096: at 4.127 bits a weight, 25.96 MB in NF4.
  EXPECT_NEAR(
      static_cast<double>(minimum_of("Qwen3-8B", "", kMerge) - minimum_of("Qwen3-8B", original, kMerge)),
      12288.0 * 4096 * 4.127 / 8, 5e4);
  // A pair of rank 64 instead of 16 is 48 more vectors of 12288 + 4096 numbers.
  EXPECT_EQ(minimum_of("Qwen3-8B", "[lora]\nr = 64\n", kConvert) - minimum_of("Qwen3-8B", "", kConvert),
            48u * (12288 + 4096) * 4);
  EXPECT_LT(minimum_of("Qwen3-0.6B", "", kMerge), minimum_of("Qwen3-32B", "", kMerge));
  EXPECT_LT(minimum_of("Qwen3-0.6B", "", kMerge), 400'000'000u);
}

TEST(StageNeeds, DiskIsWhatTheSeedSays) {
  const Config config = parse_config("[merge]\nbase = \"original\"\n", "test");
  const auto stages = estimate_stages({config, published_config("Qwen3-8B"), 8});
  EXPECT_NEAR(static_cast<double>(stages[0].disk) / 1e9, 16.4, 0.1);  // the seed: 16 GB
  EXPECT_NEAR(static_cast<double>(stages[3].disk) / 1e9, 16.4, 0.1);
  EXPECT_NEAR(static_cast<double>(stages[4].disk) / 1e9, 5.2, 0.3);  // Qwen's own Q4_K_M file has 5.03 GB
  EXPECT_EQ(estimate_stages({config, published_config("Qwen3-8B"), 8, {}, true})[0].disk, 0u);
}

TEST(TrainingWithin, OffloadsWhatTheCardHasNoRoomFor) {
  const Config config = parse_config("", "defaults");
  const ModelConfig model = published_config("Qwen3-8B");
  const EstimateInputs on_a_card{config, model, 8, {DeviceKind::kCuda, DType::kBF16, 64, 0}};
  const auto roomy = plan_training_within(on_a_card, 80 * kGB);
  ASSERT_TRUE(roomy);
  EXPECT_EQ(roomy->offloaded_layers, 0);
  const auto tight = plan_training_within(on_a_card, 5 * kGB);
  ASSERT_TRUE(tight);
  EXPECT_GT(tight->offloaded_layers, 2);
  EXPECT_THAT(tight->strategy_text(), HasSubstr("of 36 layers offloaded"));
  EXPECT_LE(tight->total_bytes, 5 * kGB);
  EXPECT_FALSE(plan_training_within(on_a_card, kGB));
  // What the stage needs at the least is with all layers offloaded.
  EXPECT_LT(estimate_stages(on_a_card)[1].memory_minimum, 5 * kGB);
  EXPECT_GT(estimate_stages({config, model, 8})[1].memory_minimum, 5 * kGB);
}

TEST(CheckReport, JudgesTheSeedsTable) {
  const Config config = parse_config("", "defaults");
  const CheckReport report = make_check_report(config, machine_of(24, 60));
  ASSERT_EQ(report.seed_rows.size(), 4u);
  const SeedRow& row = report.seed_rows[1];
  EXPECT_EQ(row.requirements.model, "Qwen3-8B");
  EXPECT_EQ(row.training_vram, Verdict::kAbsent);
  EXPECT_EQ(row.training_ram, Verdict::kGood);
  EXPECT_EQ(row.merge_ram, Verdict::kMinimum);
  EXPECT_EQ(row.disk, Verdict::kGood);
  EXPECT_EQ(report.seed_rows[3].training_ram, Verdict::kShort);
  EXPECT_EQ(report.seed_rows[3].disk, Verdict::kShort);
  EXPECT_EQ(report.swap, Verdict::kMinimum);
  EXPECT_EQ(report.cuda, Verdict::kAbsent);
}

TEST(CheckReport, JudgesGpuAndDriver) {
  const Config config = parse_config("", "defaults");
  const CheckReport good = make_check_report(config, with_gpu(machine_of(64, 500), 24, 12040));
  EXPECT_EQ(good.cuda, Verdict::kGood);
  EXPECT_EQ(good.seed_rows[2].training_vram, Verdict::kGood);
  EXPECT_EQ(good.seed_rows[3].training_vram, Verdict::kShort);
  EXPECT_EQ(make_check_report(config, with_gpu(machine_of(64, 500), 24, 12020)).cuda, Verdict::kShort);
}

TEST(CheckReport, PlansTheConfiguredModel) {
  const Config config = parse_config("", "defaults");
  const CheckReport large = make_check_report(config, machine_of(64, 500));
  ASSERT_TRUE(large.plan);
  EXPECT_EQ(large.plan->model, "Qwen/Qwen3-8B");
  EXPECT_FALSE(large.falls_short());
  EXPECT_EQ(stage_of(*large.plan, "train"), Verdict::kGood);
  const CheckReport small = make_check_report(config, machine_of(4, 500));
  EXPECT_TRUE(small.falls_short());
  EXPECT_EQ(stage_of(*small.plan, "train"), Verdict::kShort);
  EXPECT_NE(stage_of(*small.plan, "merge"), Verdict::kShort);  // it streams
  // The download fits, the merged copies after it do not.
  const CheckReport narrow = make_check_report(config, machine_of(64, 30));
  EXPECT_EQ(stage_of(*narrow.plan, "setup"), Verdict::kGood);
  EXPECT_EQ(stage_of(*narrow.plan, "merge"), Verdict::kShort);
}

TEST(CheckReport, ABudgetCountsInsteadOfTheMachine) {
  const Config config = parse_config("memory_budget = \"4GB\"\n", "test");
  EXPECT_TRUE(make_check_report(config, machine_of(64, 500)).falls_short());
}

TEST(CheckReport, ReadsALocalModel) {
  const Config config = load_config("configs/mini.toml");
  const CheckReport report = make_check_report(config, machine_of(4, 5));
  ASSERT_TRUE(report.plan) << report.plan_problem;
  EXPECT_EQ(report.plan->origin, "models/onggi-mini");
  EXPECT_FALSE(report.falls_short());
  EXPECT_NEAR(static_cast<double>(report.plan->size.parameters) / 1e6, 16, 1);
}

TEST(CheckReport, SaysWhenASizeIsNotKnown) {
  const Config config = parse_config("model_name = \"somebody/some-model\"\n", "test");
  const CheckReport report = make_check_report(config, machine_of(4, 5));
  EXPECT_FALSE(report.plan);
  // Setup finds it out; until then nothing is known to be too small.
  EXPECT_FALSE(report.falls_short());
  EXPECT_TRUE(nlohmann::json::parse(report.to_json())["enough"].is_null());
  EXPECT_THAT(report.to_text(), HasSubstr("somebody/some-model"));
}

TEST(CheckReport, TextAndJsonSayTheSame) {
  const Config config = parse_config("", "defaults");
  const CheckReport report = make_check_report(config, with_gpu(machine_of(24, 60), 16, 12020));
  const std::string text = report.to_text();
  EXPECT_THAT(text, HasSubstr("Test CPU, 8 usable of 8"));
  EXPECT_THAT(text, HasSubstr("AVX2, FMA"));
  EXPECT_THAT(text, HasSubstr("Test GPU, 16 GB, 16 GB free, compute capability 9.0"));
  EXPECT_THAT(text, HasSubstr("CUDA 12.2 (12.4 or newer is needed): too little"));
  EXPECT_THAT(text, HasSubstr("16 GB is recommended"));
  EXPECT_THAT(text, HasSubstr("Qwen/Qwen3-8B (8.2 B parameters"));
  const auto json = nlohmann::json::parse(report.to_json());
  EXPECT_EQ(json["machine"]["cpu"]["model"], "Test CPU");
  EXPECT_EQ(json["machine"]["cuda"]["verdict"], "short");
  EXPECT_EQ(json["models"].size(), 4u);
  EXPECT_EQ(json["models"][1]["training_vram"]["verdict"], "ok");
  EXPECT_EQ(json["plan"]["stages"].size(), 6u);
  EXPECT_EQ(json["plan"]["training"]["offloaded_layers"], 0);
  EXPECT_THAT(text, HasSubstr("Training here: "));
  EXPECT_EQ(json["enough"], !report.falls_short());
}

TEST(CheckReport, OfThisMachine) {
  const CheckReport report = check_machine(load_config("configs/mini.toml"));
  EXPECT_FALSE(report.falls_short()) << report.to_text();
}

TEST(TextTable, AlignsKorean) {
  EXPECT_EQ(display_width("abc"), 3u);
  EXPECT_EQ(display_width("옹기"), 4u);
  EXPECT_EQ(display_width("e\u0301"), 1u);
  EXPECT_EQ(align_rows({{"옹기", "x"}, {"abcdef", "y"}, {"a"}}, 1), " 옹기    x\n abcdef  y\n a\n");
}

}  // namespace
}  // namespace onggi

#include "merge/merge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/adapter.h"
#include "formats/json_file.h"
#include "formats/safetensors.h"
#include "model/config.h"
#include "model/tensor_names.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;
using testing::UnorderedElementsAre;

constexpr const char* kBase = "models/onggi-mini";
constexpr const char* kQ0 = "model.layers.0.self_attn.q_proj";

AdapterConfig golden_config() {
  AdapterConfig config;
  config.dropout = 0.1;
  config.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  config.base_model = "onggi-mini";
  return config;
}

// One pair for one module, with all zeros but what the test sets.
struct OnePair {
  std::vector<float> a = std::vector<float>(2 * 512), b = std::vector<float>(768 * 2);  // R 2, K 512, N 768

  void write(const fs::path& folder, double alpha = 2, const std::string& module = kQ0) const {
    AdapterConfig config;
    config.r = 2;
    config.alpha = alpha;
    config.target_modules = {"q_proj"};
    write_adapter(folder, config,
                  {{module, {a.data(), DType::kF32, {2, 512}}, {b.data(), DType::kF32, {768, 2}}}});
  }
};

float bf16_at(const MappedTensors& tensors, const std::string& name, int64_t index) {
  float value;
  read_as_f32(tensors.tensor(name), index, 1, &value);
  return value;
}

class Merge : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(scratch_ / "adapter");
    fs::copy_file("tests/golden/adapter_final.safetensors", scratch_ / "adapter/adapter_model.safetensors");
    write_file(scratch_ / "adapter/adapter_config.json", adapter_config_json(golden_config()));
    options_.base_folder = kBase;
    options_.adapter_folder = scratch_ / "adapter";
    options_.output_folder = scratch_ / "merged";
  }
  MergeResult merge() { return merge_adapter(options_, threads_); }
  void use_pair(const OnePair& pair, double alpha = 2, const std::string& module = kQ0) {
    options_.adapter_folder = scratch_ / "pair";
    pair.write(options_.adapter_folder, alpha, module);
  }
  // A copy of the base without some of its files.
  void use_base_without(const std::vector<std::string>& names) {
    options_.base_folder = scratch_ / "base";
    fs::copy(kBase, options_.base_folder);
    for (const std::string& name : names) fs::remove(options_.base_folder / name);
  }
  template <typename Expected = InputError>
  std::string error() {
    return message_of<Expected>([&] { merge(); });
  }

  TemporaryFolder scratch_;
  MergeOptions options_;
  ThreadPool threads_{2};
};

// golden/merged.safetensors was merged by PEFT in fp32; ours is that, rounded once: half a unit in the last
// of bf16's 8 bits, plus what a different order of fp32 additions may move.
TEST_F(Merge, EqualsPeftsMergeRoundedOnce) {
  merge();
  const SafetensorsReader golden("tests/golden/merged.safetensors");
  const ShardedSafetensors merged(options_.output_folder), base(kBase);
  const TensorView expected = golden.tensor("layers0.q_proj.merged_fp32");
  const std::string name = std::string(kQ0) + ".weight";
  double worst = 0;
  int64_t worst_index = 0, differs_from_rounded = 0, differs_from_base = 0;
  for (int64_t i = 0; i < expected.elements(); ++i) {
    const float target = static_cast<const float*>(expected.data)[i], ours = bf16_at(merged, name, i);
    const double error = std::abs(ours - target) / (std::abs(target) + 1e-6);
    if (error > worst) worst = error, worst_index = i;
    differs_from_rounded += ours != bf16_to_f32(f32_to_bf16(target));
    differs_from_base += ours != bf16_at(base, name, i);
  }
  EXPECT_LE(worst, std::ldexp(1.0, -8) * 1.001) << "element " << worst_index;
  EXPECT_LE(differs_from_rounded, expected.elements() / 1000)
      << "only ties of rounding may fall the other way";
  EXPECT_GT(differs_from_base, expected.elements() / 4) << "the adapter changes the weight";
}

TEST_F(Merge, WritesTheFilesOfTheSeedsList) {
  const MergeResult result = merge();
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(options_.output_folder))
    names.push_back(entry.path().filename());
  EXPECT_THAT(names, UnorderedElementsAre(
                         "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                         "model-00003-of-00003.safetensors", "model.safetensors.index.json", "tokenizer.json",
                         "vocab.json", "merges.txt", "chat_template.jinja", "config.json",
                         "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
                         "added_tokens.json", "merge_info.json", "README.md"));
  EXPECT_EQ(result.files.size(), names.size());
  EXPECT_EQ(result.files.back(), "merge_info.json");
  for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt", "chat_template.jinja", "config.json",
                           "generation_config.json", "tokenizer_config.json"})
    EXPECT_EQ(read_file(options_.output_folder / name), read_file(fs::path(kBase) / name)) << name;
  EXPECT_EQ(read_json_file(options_.output_folder / "model.safetensors.index.json"),
            read_json_file(fs::path(kBase) / "model.safetensors.index.json"));
  EXPECT_THAT(result.warnings, IsEmpty());
}

TEST_F(Merge, TheResultIsAModelWithTheSameTensors) {
  const MergeResult result = merge();
  const ShardedSafetensors merged(options_.output_folder), base(kBase);
  check_tensors(read_hf_config(options_.output_folder), NameStyle::kHuggingFace, merged);
  EXPECT_FALSE(merged.has("lm_head.weight")) << "tied embeddings stay tied";
  EXPECT_EQ(merged.names(), base.names());
  for (const char* untouched :
       {"model.embed_tokens.weight", "model.norm.weight", "model.layers.2.self_attn.q_norm.weight"})
    EXPECT_EQ(
        std::memcmp(merged.tensor(untouched).data, base.tensor(untouched).data, base.info(untouched).bytes),
        0);
  EXPECT_EQ(result.bytes, 32517120u);
  EXPECT_EQ(result.parameters, 16258560u);
  ASSERT_THAT(result.modules, SizeIs(28));
  for (const MergedModule& module : result.modules) {
    EXPECT_GT(module.relative_change, 1e-4) << module.module;
    EXPECT_LT(module.relative_change, 0.5) << module.module;
    EXPECT_GT(module.changed_share, 0.05) << module.module;
    EXPECT_LT(module.rounding_error, 1) << module.module;
  }
}

TEST_F(Merge, HandPlacedNumbersArriveWhereTheyShould) {
  OnePair pair;
  pair.a[0 * 512 + 3] = 2;      // A[0, 3]
  pair.a[1 * 512 + 5] = -1;     // A[1, 5]
  pair.b[7 * 2 + 0] = 4;        // B[7, 0]
  pair.b[9 * 2 + 1] = 8;        // B[9, 1]
  use_pair(pair, /*alpha=*/1);  // scale 1/2
  const MergeResult result = merge();
  const ShardedSafetensors merged(options_.output_folder), base(kBase);
  const std::string name = std::string(kQ0) + ".weight";
  for (int64_t n = 0; n < 768; ++n) {
    for (int64_t k = 0; k < 512; ++k) {
      const float delta = n == 7 && k == 3 ? 4.0f : n == 9 && k == 5 ? -4.0f : 0.0f;
      const float expected = bf16_to_f32(f32_to_bf16(bf16_at(base, name, n * 512 + k) + delta));
      ASSERT_EQ(bf16_at(merged, name, n * 512 + k), expected) << n << ", " << k;
    }
  }
  ASSERT_THAT(result.modules, SizeIs(1));
  EXPECT_NEAR(result.modules[0].delta_norm, std::sqrt(32.0), 1e-9);
  EXPECT_NEAR(result.modules[0].changed_share, 2.0 / (768 * 512), 1e-12);
}

TEST_F(Merge, Nf4BaseIsWhatTrainingSaw) {
  use_pair(OnePair{});  // no change: the written weight is the dequantised one
  options_.base = MergeBase::kNf4Dequantized;
  const MergeResult result = merge();
  const SafetensorsReader golden("tests/golden/nf4.safetensors");  // bitsandbytes on this very weight
  const ShardedSafetensors merged(options_.output_folder), base(kBase);
  const std::string name = std::string(kQ0) + ".weight";
  EXPECT_EQ(std::memcmp(merged.tensor(name).data, golden.tensor("dequantized").data, 768 * 512 * 2), 0);
  const std::string down = "model.layers.3.mlp.down_proj.weight";
  EXPECT_NE(std::memcmp(merged.tensor(down).data, base.tensor(down).data, base.info(down).bytes), 0)
      << "projections without an adapter were NF4 in training too";
  EXPECT_EQ(std::memcmp(merged.tensor("model.embed_tokens.weight").data,
                        base.tensor("model.embed_tokens.weight").data, 8192 * 512 * 2),
            0);
  EXPECT_EQ(result.modules[0].changed_share, 0);
  EXPECT_EQ(read_json_file(options_.output_folder / "merge_info.json")["merge_base"], "nf4_dequantized");
}

TEST_F(Merge, InfoAndModelCardCarryFiguresAndProvenance) {
  options_.provenance_json =
      R"({"base_model":"org/옹기","base_revision":"abc","dataset_sha256":"d1","think_mode":"empty","recipe":{"steps":100}})";
  const MergeResult result = merge();
  const json info = read_json_file(options_.output_folder / "merge_info.json");
  EXPECT_EQ(info["base_model"], "org/옹기");
  EXPECT_EQ(info["provenance"]["think_mode"], "empty");
  EXPECT_EQ(info["provenance"]["recipe"]["steps"], 100);
  EXPECT_EQ(info["adapter"]["sha256"],
            sha256_hex_of_file(options_.adapter_folder / "adapter_model.safetensors"));
  EXPECT_EQ(info["adapter"]["scale"], 1.0);
  ASSERT_EQ(info["change"]["layers"].size(), 4u);
  EXPECT_EQ(info["change"]["layers"][2]["layer"], 2);
  EXPECT_EQ(info["change"]["layers"][2]["modules"].size(), 7u);
  const auto q0 = std::find_if(result.modules.begin(), result.modules.end(),
                               [](const MergedModule& module) { return module.module == kQ0; });
  EXPECT_EQ(info["change"]["layers"][0]["modules"]["q_proj"]["relative_change"], q0->relative_change);
  const std::string card = read_file(options_.output_folder / "README.md");
  EXPECT_THAT(card, HasSubstr("\n# merged\n"));
  EXPECT_THAT(card, HasSubstr("base_model: \"org/옹기\""));
  EXPECT_THAT(card, HasSubstr("| think_mode | empty |"));
  options_.provenance_json = "[1]";
  EXPECT_THAT(error<UsageError>(), HasSubstr("JSON object"));
}

TEST_F(Merge, SameBytesWhateverTheThreads) {
  merge();
  std::map<std::string, std::string> first;
  for (const auto& entry : fs::directory_iterator(options_.output_folder))
    first[entry.path().filename()] = sha256_hex_of_file(entry.path());
  ThreadPool one(1), five(5);
  for (ThreadPool* threads : {&one, &five}) {
    merge_adapter(options_, *threads);
    for (const auto& [name, hash] : first)
      EXPECT_EQ(sha256_hex_of_file(options_.output_folder / name), hash) << name;
  }
}

TEST_F(Merge, CutsShardsAnew) {
  options_.max_shard_bytes = 9'000'000;
  merge();
  const ShardedSafetensors merged(options_.output_folder);
  EXPECT_GT(merged.shards().size(), 3u);
  for (const MappedFile& file : merged.files()) EXPECT_LE(file.bytes().size(), 9'010'000u);
  EXPECT_EQ(merged.names(), ShardedSafetensors(kBase).names());
  // A second merge with other shards leaves none of the first.
  options_.max_shard_bytes = 5'000'000'000;
  write_file(options_.output_folder / "model-00001-of-00009.safetensors.123.4.tmp", "of a killed process");
  write_file(options_.output_folder / "notes.tmp", "of the user");
  merge();
  EXPECT_FALSE(fs::exists(options_.output_folder / "model-00001-of-00009.safetensors.123.4.tmp"));
  EXPECT_TRUE(fs::exists(options_.output_folder / "notes.tmp"));
  EXPECT_FALSE(fs::exists(options_.output_folder / merged.shards().front()));
}

TEST_F(Merge, DerivesWhatTheBaseLacks) {
  use_base_without(
      {"vocab.json", "merges.txt", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"});
  json config = read_json_file(options_.base_folder / "config.json");
  const MergeResult result = merge();
  const fs::path& out = options_.output_folder;
  EXPECT_EQ(read_file(out / "vocab.json"), read_file(fs::path(kBase) / "vocab.json"));
  EXPECT_EQ(read_file(out / "merges.txt"), read_file(fs::path(kBase) / "merges.txt"));
  EXPECT_EQ(read_json_file(out / "generation_config.json")["eos_token_id"], 8102);
  const json tokenizer = read_json_file(out / "tokenizer_config.json");
  EXPECT_EQ(tokenizer["eos_token"], "<|im_end|>");
  EXPECT_EQ(tokenizer["pad_token"], "<|endoftext|>");
  EXPECT_EQ(tokenizer["added_tokens_decoder"].size(), 26u);
  EXPECT_EQ(tokenizer["added_tokens_decoder"]["8102"]["special"], true);
  EXPECT_FALSE(fs::exists(out / "chat_template.jinja"));
  EXPECT_THAT(result.warnings, Contains(HasSubstr("chat_template.jinja")));
}

TEST_F(Merge, DerivesSpecialAndAddedTokens) {
  merge();
  const json added = read_json_file(options_.output_folder / "added_tokens.json");
  EXPECT_EQ(added.size(), 26u);
  EXPECT_EQ(added["<|im_end|>"], 8102);
  const json special = read_json_file(options_.output_folder / "special_tokens_map.json");
  EXPECT_EQ(special["eos_token"]["content"], "<|im_end|>");
  EXPECT_EQ(special["eos_token"]["lstrip"], false);
  EXPECT_EQ(special["pad_token"]["content"], "<|endoftext|>");
  EXPECT_EQ(special["additional_special_tokens"].size(), 13u);
}

TEST_F(Merge, TakesTheTemplateFromTokenizerConfig) {
  use_base_without({"chat_template.jinja"});
  json config = read_json_file(options_.base_folder / "tokenizer_config.json");
  config["chat_template"] = "{{ 옹기 }}\n";
  write_json_file(options_.base_folder / "tokenizer_config.json", config);
  merge();
  EXPECT_EQ(read_file(options_.output_folder / "chat_template.jinja"), "{{ 옹기 }}\n");
  config["chat_template"] =
      json::array({{{"name", "tools"}, {"template", "t"}}, {{"name", "default"}, {"template", "d"}}});
  write_json_file(options_.base_folder / "tokenizer_config.json", config);
  merge();
  EXPECT_EQ(read_file(options_.output_folder / "chat_template.jinja"), "d");
}

TEST_F(Merge, RoundsAnFp32BaseAndSaysSoInItsConfig) {
  use_base_without({"model-00003-of-00003.safetensors"});
  const SafetensorsReader last(fs::path(kBase) / "model-00003-of-00003.safetensors");
  std::vector<TensorSpec> specs;
  for (const TensorInfo& info : last.tensors()) specs.push_back({info.name, DType::kF32, info.shape});
  {
    SafetensorsWriter writer(options_.base_folder / "model-00003-of-00003.safetensors", specs);
    for (const TensorSpec& spec : specs) {
      std::vector<float> values(static_cast<size_t>(element_count(spec.shape)));
      read_as_f32(last.tensor(spec.name), 0, element_count(spec.shape), values.data());
      writer.write(spec.name, values.data(), values.size() * sizeof(float));
    }
    writer.commit();
  }
  json config = read_json_file(options_.base_folder / "config.json");
  config["dtype"] = "float32";
  write_json_file(options_.base_folder / "config.json", config);
  merge();
  const fs::path half = options_.output_folder;
  options_.output_folder = scratch_ / "merged16";
  options_.base_folder = kBase;
  merge();
  const SafetensorsReader from32(half / "model-00003-of-00003.safetensors"),
      from16(options_.output_folder / "model-00003-of-00003.safetensors");
  ASSERT_EQ(from32.names(), from16.names());
  for (const TensorInfo& info : from16.tensors())
    EXPECT_EQ(std::memcmp(from32.tensor(info.name).data, from16.tensor(info.name).data, info.bytes), 0)
        << info.name;
  EXPECT_EQ(read_json_file(half / "config.json")["dtype"], "bfloat16");
}

TEST_F(Merge, WarnsWhenTheChangeVanishesInRounding) {
  OnePair pair;
  std::fill(pair.a.begin(), pair.a.end(), 1e-6f);
  std::fill(pair.b.begin(), pair.b.end(), 1e-3f);
  use_pair(pair);
  const MergeResult result = merge();
  ASSERT_THAT(result.warnings, SizeIs(1));
  EXPECT_THAT(result.warnings[0], HasSubstr("1 of 1 weights"));
  EXPECT_THAT(result.warnings[0], HasSubstr(kQ0));
  EXPECT_EQ(read_json_file(options_.output_folder / "merge_info.json")["warnings"][0], result.warnings[0]);
}

TEST_F(Merge, ProgressReachesTheTotalAndMayStopTheWork) {
  MergeProgress last;
  options_.progress = [&](const MergeProgress& progress) {
    EXPECT_GE(progress.bytes_done, last.bytes_done);
    last = progress;
  };
  merge();
  EXPECT_EQ(last.bytes_done, 32517120u);
  EXPECT_EQ(last.bytes_total, 32517120u);

  options_.progress = [](const MergeProgress& progress) {
    if (progress.bytes_done > 20'000'000) throw Interrupted("stopped");
  };
  error<Interrupted>();
  EXPECT_FALSE(fs::exists(options_.output_folder / "merge_info.json"))
      << "the earlier result must not look complete";
  EXPECT_FALSE(fs::exists(options_.output_folder / "model.safetensors.index.json"));
  EXPECT_THROW(ShardedSafetensors folder(options_.output_folder), InputError);
  for (const auto& entry : fs::directory_iterator(options_.output_folder))
    EXPECT_THAT(entry.path().string(), Not(HasSubstr(".tmp")));
}

TEST_F(Merge, RefusesWhatDoesNotFit) {
  use_pair(OnePair{}, 2, "model.layers.4.self_attn.q_proj");
  EXPECT_THAT(error(), HasSubstr("model.layers.4.self_attn.q_proj, which the base model does not have"));
  use_pair(OnePair{}, 2, "model.layers.0.self_attn.k_proj");
  EXPECT_THAT(error(), HasSubstr("[768, 512], but the base model's is [256, 512]"));
  use_pair(OnePair{}, 2, "lm_head");
  EXPECT_THAT(error(), HasSubstr("lm_head"));
  options_.output_folder = kBase;
  EXPECT_THAT(error<UsageError>(), HasSubstr("choose another folder"));
  options_.output_folder = scratch_ / "merged";
  use_base_without({"tokenizer.json"});
  use_pair(OnePair{});
  EXPECT_THAT(error(), HasSubstr("tokenizer.json"));
  EXPECT_FALSE(fs::exists(options_.output_folder / "merge_info.json"));
  fs::remove(options_.base_folder / "model-00002-of-00003.safetensors");
  EXPECT_THAT(error(), HasSubstr("model-00002-of-00003.safetensors"));
}

}  // namespace
}  // namespace onggi

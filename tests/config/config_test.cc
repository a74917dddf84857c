#include "config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "config/keys.h"

namespace onggi {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Config from(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  return parse_config(toml, "my.toml", overrides);
}

// The message of the UsageError that reading must throw.
std::string usage_error(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  try {
    from(toml, overrides);
  } catch (const UsageError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no UsageError for:\n" << toml;
  return "";
}

TEST(Config, DefaultsAreTheSeeds) {
  const Config c = from("");
  EXPECT_EQ(c.model_name, "Qwen/Qwen3-8B");
  EXPECT_EQ(c.model_base_name, "Qwen3-8B");
  EXPECT_EQ(c.max_seq_length, 2048);
  EXPECT_EQ(c.cutoff_len, 512);
  EXPECT_EQ(c.training.max_steps, 100);
  EXPECT_EQ(c.training.per_device_train_batch_size, 1);
  EXPECT_EQ(c.training.gradient_accumulation_steps, 4);
  EXPECT_DOUBLE_EQ(c.training.learning_rate, 2e-4);
  EXPECT_EQ(c.training.lr_scheduler_type, TrainingConfig::Scheduler::kLinear);
  EXPECT_EQ(c.training.save_steps, 50);
  EXPECT_EQ(c.lora.r, 16);
  EXPECT_EQ(c.lora.lora_alpha, 16);
  EXPECT_DOUBLE_EQ(c.lora.lora_dropout, 0.1);
  EXPECT_EQ(c.lora.target_modules.size(), 7u);
  EXPECT_TRUE(c.quantization.load_in_4bit);
  EXPECT_DOUBLE_EQ(c.validation.match_rate, 0.99);
  EXPECT_EQ(c.merge.max_shard_size.bytes, 5'000'000'000u);
  EXPECT_THAT(c.gguf.types, ElementsAre("q4_k_m"));
  EXPECT_EQ(c.server.port, 8000);
  EXPECT_EQ(c.server.ollama_port, 11434);
}

// onggi.toml is the printed table of keys: nothing in it can be stale. To make it anew, run this test with
// ONGGI_WRITE_DEFAULTS=1 in the environment.
TEST(Config, RootFileIsTheCommentedDefaults) {
  const std::string body = to_commented_toml(Config{});
  if (std::getenv("ONGGI_WRITE_DEFAULTS") != nullptr) {
    const std::string old = read_file("onggi.toml");
    write_file("onggi.toml", old.substr(0, old.find("\n\n") + 2) + body);
  }
  EXPECT_THAT(read_file("onggi.toml"), HasSubstr("\n\n" + body));
  EXPECT_EQ(load_config("onggi.toml"), load_config(std::nullopt));
}

TEST(Config, MiniFileNamesTheEmbeddedModel) {
  const Config c = load_config("configs/mini.toml");
  EXPECT_EQ(c.model_name, "models/onggi-mini");
  EXPECT_EQ(c.model_base_name, "onggi-mini");
  EXPECT_EQ(c.server.port, 8000);
}

TEST(Config, ReadsEveryKindOfValue) {
  const Config c = from(R"(
threads = 3
memory_budget = "16GiB"
device = "cpu"
[training]
learning_rate = 1
packing = false
gradient_checkpointing = true
[merge]
max_shard_size = 1000
[gguf]
types = ["f16", "q8_0"]
[server]
context_length = "auto"
max_batch = 8
api_keys = ["secret"]
[loadtest]
users = [1, 3]
[parity]
merged.max_kl = 0.5
)");
  EXPECT_EQ(c.threads, 3);
  EXPECT_EQ(c.memory_budget->bytes, uint64_t{16} << 30);
  EXPECT_EQ(c.device, DeviceChoice::kCpu);
  EXPECT_DOUBLE_EQ(c.training.learning_rate, 1.0);
  EXPECT_FALSE(c.training.packing);
  EXPECT_EQ(c.training.gradient_checkpointing, TrainingConfig::Checkpointing::kOn);
  EXPECT_EQ(c.merge.max_shard_size.bytes, 1000u);
  EXPECT_THAT(c.gguf.types, ElementsAre("f16", "q8_0"));
  EXPECT_EQ(c.server.context_length, std::nullopt);
  EXPECT_EQ(c.server.max_batch, 8);
  EXPECT_THAT(c.server.api_keys, ElementsAre("secret"));
  EXPECT_THAT(c.loadtest.users, ElementsAre(1, 3));
  EXPECT_DOUBLE_EQ(c.parity.merged.max_kl, 0.5);
  EXPECT_DOUBLE_EQ(c.parity.merged.min_agreement, ParityConfig{}.merged.min_agreement);
}

TEST(Config, OverridesWinAndNeedNoQuotes) {
  const Config c = from("[training]\nmax_steps = 7\n",
                        {"training.max_steps=9", "model_name=Qwen/Qwen3-0.6B", "device=cpu",
                         "gguf.types=q8_0,f16", "training.packing=false", "merge.max_shard_size=1MB",
                         "data.system=너는 옹기다.", "loadtest.users=[4]", "ollama.name=2024"});
  EXPECT_EQ(c.training.max_steps, 9);
  EXPECT_EQ(c.model_base_name, "Qwen3-0.6B");
  EXPECT_EQ(c.device, DeviceChoice::kCpu);
  EXPECT_THAT(c.gguf.types, ElementsAre("q8_0", "f16"));
  EXPECT_FALSE(c.training.packing);
  EXPECT_EQ(c.merge.max_shard_size.bytes, 1'000'000u);
  EXPECT_EQ(c.data.system, "너는 옹기다.");
  EXPECT_THAT(c.loadtest.users, ElementsAre(4));
  EXPECT_EQ(c.ollama.name, "2024");
}

TEST(Config, AnOverrideCannotSmuggleAnotherKey) {
  EXPECT_EQ(from("", {"data.system=1\nseed = 7"}).data.system, "1\nseed = 7");
}

TEST(Config, UnknownKeyNamesPlaceAndNearestKey) {
  EXPECT_EQ(usage_error("seed = 1\n\n[training]\nmax_step = 3\n"),
            "my.toml:4: unknown key training.max_step; did you mean training.max_steps?");
  EXPECT_THAT(usage_error("learning_rate = 3\n"), HasSubstr("did you mean training.learning_rate?"));
  EXPECT_THAT(usage_error("[trainig]\nmax_steps = 3\n"),
              HasSubstr("unknown key trainig.max_steps; did you mean training.max_steps?"));
  EXPECT_THAT(usage_error("", {"lora.rr=3"}),
              HasSubstr("command line: unknown key lora.rr; did you mean lora.r?"));
  EXPECT_THAT(usage_error("completely_different_thing = 3\n"), HasSubstr("onggi.toml at the root"));
}

TEST(Config, WrongValuesNameKeyAndLine) {
  EXPECT_EQ(usage_error("[lora]\nr = \"many\"\n"), "my.toml:2: lora.r must be a whole number");
  EXPECT_THAT(usage_error("[lora]\nr = 1.5\n"), HasSubstr("must be a whole number"));
  EXPECT_THAT(usage_error("[lora]\nr = 0\n"), HasSubstr("lora.r = 0 is out of bounds"));
  EXPECT_THAT(usage_error("[lora]\nlora_dropout = nan\n"), HasSubstr("finite"));
  EXPECT_THAT(usage_error("[lora]\ntarget_modules = [\"q_proj\", \"x\"]\n"), HasSubstr("\"x\""));
  EXPECT_THAT(usage_error("[lora]\ntarget_modules = []\n"), HasSubstr("at least one"));
  EXPECT_THAT(usage_error("[gguf]\ntypes = [\"f16\", \"f16\"]\n"), HasSubstr("twice"));
  EXPECT_THAT(usage_error("[training]\npacking = 1\n"), HasSubstr("true or false"));
  EXPECT_THAT(usage_error("[training]\nlr_scheduler_type = \"liner\"\n"), HasSubstr("\"linear\""));
  EXPECT_THAT(usage_error("[merge]\nmax_shard_size = \"5 apples\"\n"), HasSubstr("5GB"));
  EXPECT_THAT(usage_error("[server]\nport = 70000\n"), HasSubstr("out of bounds"));
  EXPECT_THAT(usage_error("model_name = 3\n"), HasSubstr("string"));
  EXPECT_THAT(usage_error("training = 3\n"), HasSubstr("[training]"));
  EXPECT_THAT(usage_error("seed = = 3\n"), HasSubstr("my.toml:1:"));
  EXPECT_THAT(usage_error("seed = 1\nseed = 2\n"), HasSubstr("my.toml:2:"));
  EXPECT_THAT(usage_error("", {"seed"}), HasSubstr("key=value"));
}

TEST(Config, ContradictionsAreRefused) {
  EXPECT_THAT(usage_error("cutoff_len = 4096\n"), HasSubstr("max_seq_length"));
  EXPECT_THAT(usage_error("[server]\nport = 11434\n"), HasSubstr("ollama_port"));
  EXPECT_THAT(usage_error("[training]\nload_best_model_at_end = true\n"), HasSubstr("validation_split"));
  EXPECT_THAT(usage_error("model_name = \"..\"\n"), HasSubstr("model_base_name"));
  EXPECT_THAT(usage_error("model_base_name = \"a/b\"\n"), HasSubstr("model_base_name"));
}

TEST(Config, PrintedFormsReadBackAsTheSame) {
  const Config c = from(
      "model_name = \"models/onggi-mini/\"\n[data]\nsystem = \"a\\\"b\\\\c\\nd\"\n"
      "[training]\nlearning_rate = 1.2345678901234567e-5\ngradient_checkpointing = false\n");
  EXPECT_EQ(c.model_base_name, "onggi-mini");
  EXPECT_EQ(parse_config(to_toml(c), "printed"), c);
  EXPECT_EQ(parse_config(to_commented_toml(c), "printed"), c);
  const auto json = nlohmann::json::parse(to_json(c));
  EXPECT_EQ(json["training"]["learning_rate"].get<double>(), c.training.learning_rate);
  EXPECT_EQ(json["training"]["gradient_checkpointing"], false);
  EXPECT_EQ(json["parity"]["q4_k"]["max_kl"].get<double>(), c.parity.q4_k.max_kl);
  EXPECT_EQ(json["threads"], "auto");
  const std::string shown = to_json(from("[server]\napi_keys = [\"top-secret\"]\n"));
  EXPECT_EQ(shown.find("top-secret"), std::string::npos);
}

TEST(Config, KeysAreUnique) {
  Config c;
  std::set<std::string> names;
  for (const Key& key : keys_of(c)) EXPECT_TRUE(names.insert(key.name).second) << key.name;
}

TEST(Config, NamesOfResults) {
  Config c = from("");
  EXPECT_EQ(c.adapter_dir(), "outputs/Qwen3-8B");
  EXPECT_EQ(c.merged_dir(), "outputs/Qwen3-8B_merged");
  EXPECT_EQ(c.gguf_path("q4_k_m"), "outputs/Qwen3-8B-finetune-q4_k_m.gguf");
  EXPECT_EQ(c.modelfile_path("q4_k_m"), "outputs/Qwen3-8B-finetune-q4_k_m.Modelfile");
  EXPECT_EQ(c.ollama_name(), "qwen3-finetune-8b");
  for (const auto& [base, expected] :
       std::vector<std::pair<std::string, std::string>>{{"onggi-mini", "onggi-mini-finetune"},
                                                        {"Qwen3-0.6B", "qwen3-finetune-0.6b"},
                                                        {"Qwen3-30B-A3B", "qwen3-finetune-30b-a3b"},
                                                        {"My Model", "my-model-finetune"}}) {
    c.model_base_name = base;
    EXPECT_EQ(c.ollama_name(), expected);
  }
  EXPECT_EQ(&c.parity_bound("q4_k_m"), &c.parity.q4_k);
  EXPECT_THROW(c.parity_bound("q9"), UsageError);
}

TEST(ByteSizes, ReadAndWrite) {
  EXPECT_EQ(parse_byte_size("5GB")->bytes, 5'000'000'000u);
  EXPECT_EQ(parse_byte_size("1.5 GiB")->bytes, 1'610'612'736u);
  EXPECT_EQ(parse_byte_size("1500")->bytes, 1500u);
  for (const char* bad : {"", "GB", "-5GB", "5XB", "1e300GB", "inf", "nan", "5GB5"}) {
    EXPECT_EQ(parse_byte_size(bad), std::nullopt) << bad;
  }
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{1500}, uint64_t{5'000'000'000}, uint64_t{1} << 34}) {
    EXPECT_EQ(parse_byte_size(to_string(ByteSize{bytes}))->bytes, bytes);
  }
}

TEST(EditDistance, CountsEditsAndSwaps) {
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("ab", "ba"), 1u);
  EXPECT_EQ(edit_distance("same", "same"), 0u);
}

}  // namespace
}  // namespace onggi

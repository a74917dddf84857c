#include "formats/adapter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr const char* kGolden = "tests/golden/adapter_final.safetensors";  // written by PEFT 0.21

AdapterConfig golden_config() {
  AdapterConfig config;
  config.r = 16;
  config.alpha = 16;
  config.dropout = 0.1;
  config.target_modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
  config.base_model = "onggi-mini";
  return config;
}

TEST(Adapter, ReadsAndWritesPeftsTensorsUnchanged) {
  TemporaryFolder scratch;
  fs::create_directories(scratch / "in");
  fs::copy_file(kGolden, scratch / "in/adapter_model.safetensors");
  write_file(scratch / "in/adapter_config.json", adapter_config_json(golden_config()));
  const AdapterReader adapter(scratch / "in");
  EXPECT_EQ(adapter.modules().size(), 28u);  // 7 projections of 4 layers
  EXPECT_TRUE(adapter.has("model.layers.3.mlp.down_proj"));
  EXPECT_FALSE(adapter.has("model.layers.4.mlp.down_proj"));
  EXPECT_EQ(adapter.a("model.layers.0.self_attn.q_proj").shape, (Shape{16, 512}));
  EXPECT_EQ(adapter.b("model.layers.0.self_attn.q_proj").shape, (Shape{768, 16}));

  std::vector<LoraTensors> modules;
  for (const std::string& module : adapter.modules())
    modules.push_back({module, adapter.a(module), adapter.b(module)});
  std::reverse(modules.begin(), modules.end());
  write_adapter(scratch / "out", adapter.config(), modules);
  const SafetensorsReader ours(scratch / "out/adapter_model.safetensors"), theirs(kGolden);
  ASSERT_EQ(ours.names(), theirs.names()) << "the order of the names is PEFT's";
  for (const TensorInfo& info : theirs.tensors()) {
    EXPECT_EQ(ours.info(info.name).shape, info.shape);
    EXPECT_EQ(std::memcmp(ours.tensor(info.name).data, theirs.tensor(info.name).data, info.bytes), 0)
        << info.name;
  }
}

TEST(Adapter, ConfigurationRoundTrips) {
  AdapterConfig config = golden_config();
  config.scaling = LoraScaling::kAlphaOverSqrtR;
  config.alpha = 2.5;
  config.revision = "main";
  const AdapterConfig read = parse_adapter_config(adapter_config_json(config), "adapter_config.json");
  EXPECT_EQ(read.r, 16);
  EXPECT_EQ(read.alpha, 2.5);
  EXPECT_EQ(read.dropout, 0.1);
  EXPECT_EQ(read.target_modules, config.target_modules);
  EXPECT_EQ(read.base_model, "onggi-mini");
  EXPECT_EQ(read.revision, "main");
  EXPECT_DOUBLE_EQ(read.scale(), 2.5 / 4);
  EXPECT_DOUBLE_EQ(golden_config().scale(), 1.0);
  // PEFT declares lora_alpha as an integer.
  EXPECT_TRUE(json::parse(adapter_config_json(golden_config()))["lora_alpha"].is_number_integer());
}

TEST(Adapter, RefusesWhatItDoesNotCompute) {
  const json plain = json::parse(adapter_config_json(golden_config()));
  const auto error = [&](const char* key, json value) {
    json changed = plain;
    changed[key] = std::move(value);
    return message_of<InputError>([&] { parse_adapter_config(changed.dump(), "adapter_config.json"); });
  };
  EXPECT_THAT(error("use_dora", true), HasSubstr("use_dora"));
  EXPECT_THAT(error("modules_to_save", {"lm_head"}), HasSubstr("modules_to_save"));
  EXPECT_THAT(error("rank_pattern", {{"q_proj", 4}}), HasSubstr("rank_pattern"));
  EXPECT_THAT(error("trainable_token_indices", {1}), HasSubstr("trainable_token_indices"));
  EXPECT_THAT(error("bias", "all"), HasSubstr("biases"));
  EXPECT_THAT(error("peft_type", "IA3"), HasSubstr("IA3"));
  EXPECT_THAT(error("r", 0), HasSubstr("r in adapter_config.json is 0"));
  EXPECT_THAT(error("r", "16"), HasSubstr("\"r\""));
  EXPECT_THAT(error("lora_alpha", nullptr), HasSubstr("lora_alpha"));
}

class BrokenAdapter : public testing::Test {
 protected:
  std::string error(const std::vector<TensorSpec>& specs) {
    AdapterConfig config;
    config.r = 2;
    write_file(scratch_ / "adapter_config.json", adapter_config_json(config));
    SafetensorsWriter writer(scratch_ / "adapter_model.safetensors", specs);
    for (const TensorSpec& spec : specs)
      writer.write(spec.name, std::string(spec.bytes(), '\0').data(), spec.bytes());
    writer.commit();
    return message_of<InputError>([&] { AdapterReader adapter(scratch_.path()); });
  }
  TemporaryFolder scratch_;
};

TEST_F(BrokenAdapter, NamesTheTensor) {
  const TensorSpec a = {lora_a_name("m"), DType::kF32, {2, 8}}, b = {lora_b_name("m"), DType::kF32, {4, 2}};
  EXPECT_THAT(error({a}), HasSubstr("has no tensor base_model.model.m.lora_B.weight"));
  EXPECT_THAT(error({{a.name, DType::kF32, {3, 8}}, b}), HasSubstr("the rank of m"));
  EXPECT_THAT(error({a, {b.name, DType::kI32, {4, 2}}}), HasSubstr("m.lora_B.weight"));
  EXPECT_THAT(error({a, {b.name, DType::kF32, {8}}}), HasSubstr("must be a matrix"));
  EXPECT_THAT(error({a, b, {"base_model.model.m.lora_magnitude_vector", DType::kF32, {4}}}),
              HasSubstr("lora_magnitude_vector"));
  EXPECT_THAT(error({}), HasSubstr("holds no adapter tensors"));
}

}  // namespace
}  // namespace onggi

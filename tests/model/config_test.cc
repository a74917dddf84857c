#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

json mini() { return json::parse(read_file("models/onggi-mini/config.json")); }

ModelConfig parse(const json& config, const std::string& generation = "") {
  return parse_hf_config(config.dump(), generation, "m/config.json");
}

std::string error_of(const json& config) {
  return message_of<InputError>([&] { parse(config); });
}

// The mini configuration with one key changed (null: removed).
json with(const char* key, json value) {
  json config = mini();
  if (value.is_null())
    config.erase(key);
  else
    config[key] = std::move(value);
  return config;
}

TEST(ModelConfig, ReadsTheEmbeddedModel) {
  const ModelConfig config = read_hf_config("models/onggi-mini");
  EXPECT_EQ(config.hidden_size, 512);
  EXPECT_EQ(config.num_layers, 4);
  EXPECT_EQ(config.num_heads, 6);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.q_size(), 768) << "not hidden_size";
  EXPECT_EQ(config.kv_size(), 256);
  EXPECT_EQ(config.intermediate_size, 1280);
  EXPECT_EQ(config.vocab_size, 8192);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(8102, 8100));
  EXPECT_EQ(config.bos_token_id, 8100);
  EXPECT_EQ(config.pad_token_id, 8100);
  EXPECT_EQ(config.temperature, 0.6);
  EXPECT_EQ(config.top_k, 20);
  EXPECT_EQ(config.top_p, 0.95);
}

TEST(ModelConfig, ReadsTheLayoutOfTransformersFour) {
  json old = with("rope_parameters", nullptr);
  old.erase("dtype");
  old["rope_theta"] = 5000;
  old["rope_scaling"] = nullptr;
  old["torch_dtype"] = "bfloat16";
  const ModelConfig config = parse(old, R"({"eos_token_id": 7, "do_sample": false})");
  EXPECT_EQ(config.rope_theta, 5000);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(7, 8102));
  EXPECT_EQ(config.temperature, 0) << "do_sample false means greedy";
  old["rope_scaling"] = {{"type", "default"}};
  EXPECT_EQ(parse(old).rope_theta, 5000);
}

TEST(ModelConfig, NamesAnUnknownArchitecture) {
  EXPECT_THAT(error_of(with("architectures", {"GPT2LMHeadModel"})),
              AllOf(HasSubstr("GPT2LMHeadModel"), HasSubstr("supported: Qwen3ForCausalLM")));
  json by_type = with("architectures", nullptr);
  EXPECT_EQ(parse(by_type).architecture, Architecture::kQwen3);
  by_type["model_type"] = "mamba";
  EXPECT_THAT(error_of(by_type), HasSubstr("mamba"));
}

TEST(ModelConfig, RefusesAFourBitCheckpoint) {
  EXPECT_THAT(
      error_of(with("quantization_config", {{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}})),
      AllOf(HasSubstr("bitsandbytes"), HasSubstr("16-bit original")));
}

TEST(ModelConfig, RefusesWhatItDoesNotCompute) {
  EXPECT_THAT(
      error_of(with("rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e6}, {"factor", 4.0}})),
      HasSubstr("yarn"));
  EXPECT_THAT(error_of(with("rope_scaling", {{"type", "linear"}, {"factor", 2.0}})), HasSubstr("linear"));
  EXPECT_THAT(error_of(with("attention_bias", true)), HasSubstr("biases"));
  EXPECT_THAT(error_of(with("use_sliding_window", true)), HasSubstr("sliding"));
  EXPECT_THAT(error_of(with("layer_types", {"sliding_attention"})), HasSubstr("sliding_attention"));
  EXPECT_THAT(error_of(with("hidden_act", "gelu")), HasSubstr("gelu"));
}

TEST(ModelConfig, NamesMissingAndAbsurdKeys) {
  for (const char* key :
       {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
        "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps"}) {
    EXPECT_THAT(error_of(with(key, nullptr)), HasSubstr(key));
    EXPECT_THAT(error_of(with(key, 0)), HasSubstr(key));
    EXPECT_THAT(error_of(with(key, -1)), HasSubstr(key));
    EXPECT_THAT(error_of(with(key, "512")), HasSubstr(key));
    EXPECT_THAT(error_of(with(key, 9e15)), HasSubstr(key));
  }
  EXPECT_THAT(error_of(with("num_hidden_layers", int64_t{1} << 40)), HasSubstr("num_hidden_layers"));
  EXPECT_THAT(error_of(with("rope_parameters", json::object())), HasSubstr("rope_theta"));
  EXPECT_THAT(error_of(with("num_key_value_heads", 4)), HasSubstr("do not divide"));
  EXPECT_THAT(error_of(with("head_dim", 127)), HasSubstr("even"));
  EXPECT_THAT(error_of(with("eos_token_id", 9000)), HasSubstr("outside the vocabulary"));
  EXPECT_THAT(error_of(with("eos_token_id", {1, "x"})), HasSubstr("eos_token_id"));
  EXPECT_THAT(message_of<InputError>([] { parse(mini(), R"({"top_p": 3})"); }), HasSubstr("out of range"));
  EXPECT_THAT(message_of<InputError>([] { parse_hf_config("[]", "", "m/config.json"); }),
              HasSubstr("m/config.json"));
}

TEST(ModelConfig, GgufEntriesRoundTrip) {
  const ModelConfig config = read_hf_config("models/onggi-mini");
  GgufFile file;
  file.source = "x.gguf";
  file.metadata = gguf_config_entries(config);
  file.metadata.emplace_back("tokenizer.ggml.eos_token_id", uint32_t{8102});
  file.metadata.emplace_back("tokenizer.ggml.bos_token_id", uint32_t{8100});
  file.metadata.emplace_back("tokenizer.ggml.padding_token_id", uint32_t{8100});
  file.metadata.emplace_back("tokenizer.ggml.tokens", StringList{"<|endoftext|>", "a", "<|im_end|>"});
  file.metadata.emplace_back("tokenizer.ggml.token_type", std::vector<int32_t>{3, 1, 1});
  file.tensors = {{"token_embd.weight", DType::kQ8_0, {8192, 512}}};
  const ModelConfig read = parse_gguf_config(file);
  EXPECT_EQ(read.hidden_size, config.hidden_size);
  EXPECT_EQ(read.num_layers, config.num_layers);
  EXPECT_EQ(read.num_heads, config.num_heads);
  EXPECT_EQ(read.num_kv_heads, config.num_kv_heads);
  EXPECT_EQ(read.head_dim, config.head_dim);
  EXPECT_EQ(read.intermediate_size, config.intermediate_size);
  EXPECT_EQ(read.vocab_size, config.vocab_size);
  EXPECT_EQ(read.max_position_embeddings, config.max_position_embeddings);
  EXPECT_FLOAT_EQ(read.rms_norm_eps, config.rms_norm_eps);
  EXPECT_EQ(read.rope_theta, config.rope_theta);
  EXPECT_TRUE(read.tie_word_embeddings);
  EXPECT_THAT(read.eos_token_ids, ElementsAre(8102, 0))
      << "the key, then the control token; not the plain text";
  EXPECT_FLOAT_EQ(read.temperature, 0.6);
  EXPECT_EQ(read.top_k, 20);

  file.tensors.push_back({"output.weight", DType::kQ6_K, {8192, 512}});
  EXPECT_FALSE(parse_gguf_config(file).tie_word_embeddings);
  file.metadata[0].second = std::string("llama");
  EXPECT_THAT(message_of<InputError>([&] { parse_gguf_config(file); }), HasSubstr("llama"));
}

TEST(ModelConfig, KnowsPublishedShapes) {
  const ModelConfig config = published_config("Qwen/Qwen3-0.6B");
  EXPECT_EQ(config.q_size(), 2048);
  EXPECT_EQ(config.hidden_size, 1024);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_FALSE(published_config("qwen3-8b").tie_word_embeddings);
  EXPECT_THAT(message_of<UsageError>([] { published_config("qwen9"); }), HasSubstr("qwen3-0.6b, qwen3-1.7b"));
}

}  // namespace
}  // namespace onggi

// The files that we write, judged by the real llama.cpp.
#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "formats/gguf.h"
#include "formats/json_file.h"
#include "quantize/adapter_gguf.h"
#include "quantize/convert.h"
#include "tests/quantize/golden_adapter.h"
#include "tests/quantize/llama_library.h"
#include "tests/scratch.h"
#include "tokenizer/tokenizer.h"

namespace onggi {
namespace {

using nlohmann::json;
using test::LlamaLibrary;
using test::LlamaModel;

constexpr const char* kModel = "models/onggi-mini";

class RealLlama : public testing::Test {
 protected:
  void SetUp() override {
    if (!LlamaLibrary::get().available()) GTEST_SKIP() << LlamaLibrary::skip_reason();
  }

  fs::path convert(QuantRecipe recipe, const fs::path& adapter = {}) {
    ConvertOptions options;
    options.source = kModel;
    options.adapter = adapter;
    options.output = folder_.path() / (std::string(recipe_info(recipe).name) + ".gguf");
    options.recipe = recipe;
    convert_to_gguf(options, threads_);
    return options.output;
  }

  TemporaryFolder folder_;
  ThreadPool threads_{2};
};

TEST_F(RealLlama, LoadsEveryRecipe) {
  for (const RecipeInfo& info : recipes()) {
    const LlamaModel model(convert(info.recipe));
    ASSERT_TRUE(model.loaded()) << info.name;
    EXPECT_EQ(model.meta("general.architecture"), "qwen3");
    EXPECT_EQ(model.meta("general.file_type"), std::to_string(info.gguf_file_type)) << info.name;
    EXPECT_EQ(model.meta("general.name"), "onggi-mini");
    EXPECT_EQ(model.meta("qwen3.block_count"), "4");
    EXPECT_EQ(model.meta("onggi.recipe"), info.name);
    EXPECT_EQ(model.greedy(model.tokenize("Git is a distributed version control system. "), 4).size(), 4u)
        << info.name;
  }
}

TEST_F(RealLlama, TokenisesAsTransformersDo) {
  const LlamaModel model(convert(QuantRecipe::kQ8_0));
  ASSERT_TRUE(model.loaded());
  EXPECT_EQ(model.chat_template(), read_file(fs::path(kModel) / "chat_template.jinja"));
  EXPECT_EQ(LlamaLibrary::get().vocab_eos(model.vocab()), 8102);
  EXPECT_FALSE(LlamaLibrary::get().vocab_adds_bos(model.vocab()));
  EXPECT_TRUE(LlamaLibrary::get().is_end(model.vocab(), 8100));
  EXPECT_TRUE(LlamaLibrary::get().is_end(model.vocab(), 8102));
  const json golden = read_json_file("tests/golden/tokenizer.json");
  int compared = 0;
  const Tokenizer tokenizer = Tokenizer::load(kModel);
  for (const json& item : golden.at("tokenizer")) {
    // llama.cpp does not normalise (Qwen's tokeniser does, NFC), so it gets the normalised text.
    const auto ids = item.at("ids").get<std::vector<int32_t>>();
    const std::string text = tokenizer.decode(ids);
    EXPECT_EQ(model.tokenize(text), ids) << text;
    ++compared;
  }
  for (const json& item : golden.at("chat")) {
    const auto text = item.at("text").get<std::string>();
    EXPECT_EQ(model.tokenize(text), item.at("ids").get<std::vector<int32_t>>()) << text;
    ++compared;
  }
  EXPECT_GT(compared, 40);
}

TEST_F(RealLlama, ContinuesAsTransformersDo) {
  const json golden = read_json_file("tests/golden/reference.json");
  for (const QuantRecipe recipe : {QuantRecipe::kF32, QuantRecipe::kF16, QuantRecipe::kBF16}) {
    const LlamaModel model(convert(recipe));
    ASSERT_TRUE(model.loaded());
    for (const json& item : golden.at("generate")) {
      const auto expected = item.at("greedy_ids").get<std::vector<int32_t>>();
      const auto prompt = model.tokenize(item.at("prompt").get<std::string>());
      EXPECT_EQ(prompt, item.at("prompt_ids").get<std::vector<int32_t>>());
      EXPECT_EQ(model.greedy(prompt, static_cast<int>(expected.size())), expected)
          << recipe_info(recipe).name;
    }
  }
}

int32_t likeliest(const std::vector<float>& logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Along transformers' continuations a Q8_0 file must predict the same tokens, except where two are so near
// that the rounding of 8 bits decides between them.
TEST_F(RealLlama, Q8_0PredictsAsTransformersDo) {
  const json golden = read_json_file("tests/golden/reference.json");
  const LlamaModel wide(convert(QuantRecipe::kF32)), model(convert(QuantRecipe::kQ8_0));
  ASSERT_TRUE(wide.loaded() && model.loaded());
  int compared = 0, agreed = 0;
  for (const json& item : golden.at("generate")) {
    const auto expected = item.at("greedy_ids").get<std::vector<int32_t>>();
    const auto prompt = item.at("prompt_ids").get<std::vector<int32_t>>();
    const auto wide_logits = wide.score(prompt, expected);
    const auto logits = model.score(prompt, expected);
    ASSERT_EQ(logits.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(likeliest(wide_logits[i]), expected[i]);
      ++compared;
      const int32_t got = likeliest(logits[i]);
      agreed += got == expected[i];
      EXPECT_LT(wide_logits[i][expected[i]] - wide_logits[i][got], 0.3f) << "token " << i << " is " << got;
    }
  }
  EXPECT_GT(compared, 150);
  EXPECT_GE(agreed, compared * 0.97) << "of " << compared;
}

// So what a Q8_0 file of ours says is what one of theirs says.
TEST_F(RealLlama, Q8_0HasTheBytesOfTheirQuantiser) {
  const fs::path theirs_path = folder_.path() / "theirs.gguf";
  LlamaLibrary::Parameters parameters = LlamaLibrary::get().quantize_default_params();
  parameters.words[0] = 1;  // nthread
  parameters.words[1] = recipe_info(QuantRecipe::kQ8_0).gguf_file_type;
  ASSERT_EQ(
      LlamaLibrary::get().quantize(convert(QuantRecipe::kF32).c_str(), theirs_path.c_str(), &parameters), 0u);
  const GgufReader theirs(theirs_path), ours(convert(QuantRecipe::kQ8_0));
  for (const TensorInfo& tensor : theirs.tensors()) {
    const TensorView expected = theirs.tensor(tensor.name), got = ours.tensor(tensor.name);
    ASSERT_EQ(got.bytes(), expected.bytes()) << tensor.name;
    EXPECT_EQ(std::memcmp(got.data, expected.data, tensor.bytes), 0) << tensor.name;
  }
}

// Their own quantiser, from our F16 file, must give every tensor the type that ours gives it.
TEST_F(RealLlama, MixesTypesAsTheirQuantiserDoes) {
  const fs::path half = convert(QuantRecipe::kF16);
  const fs::path theirs_path = folder_.path() / "theirs.gguf";
  for (const RecipeInfo& info : recipes()) {
    if (!is_quantized(info.main_dtype)) continue;
    LlamaLibrary::Parameters parameters = LlamaLibrary::get().quantize_default_params();
    parameters.words[0] = 1;                    // nthread
    parameters.words[1] = info.gguf_file_type;  // ftype
    ASSERT_EQ(LlamaLibrary::get().quantize(half.c_str(), theirs_path.c_str(), &parameters), 0u) << info.name;
    const GgufReader theirs(theirs_path), ours(convert(info.recipe));
    EXPECT_EQ(theirs.tensors().size(), ours.tensors().size());
    for (const TensorInfo& tensor : theirs.tensors()) {
      EXPECT_EQ(dtype_name(ours.info(tensor.name).dtype), dtype_name(tensor.dtype))
          << info.name << " " << tensor.name;
      EXPECT_EQ(ours.info(tensor.name).shape, tensor.shape) << tensor.name;
    }
    for (const auto& [key, value] : theirs.header().metadata) {
      const GgufValue* own = ours.header().find(key);
      ASSERT_NE(own, nullptr) << key;
      if (key == "onggi.recipe") continue;  // theirs kept F16's
      EXPECT_EQ(*own, value) << key;
    }
  }
}

TEST_F(RealLlama, AppliesTheAdapterAsTheMergedFileDoes) {
  const fs::path adapter = test::golden_adapter(folder_.path() / "adapter");
  const fs::path lora = folder_.path() / "lora.gguf";
  write_adapter_gguf(
      {.adapter = adapter, .base_folder = kModel, .output = lora, .name = "mini", .provenance = {}});
  const LlamaModel base(convert(QuantRecipe::kF32));
  ASSERT_TRUE(base.loaded());
  const auto prompt = base.tokenize(
      read_json_file("tests/golden/reference.json").at("generate").at(2).at("prompt").get<std::string>());
  const auto plain = base.greedy(prompt, 32);
  const auto adapted = base.greedy(prompt, 32, lora.c_str());
  const LlamaModel merged(convert(QuantRecipe::kF32, adapter));
  ASSERT_TRUE(merged.loaded());
  EXPECT_EQ(merged.greedy(prompt, 32), adapted);
  EXPECT_NE(plain, adapted) << "the adapter changes nothing";
}

}  // namespace
}  // namespace onggi

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

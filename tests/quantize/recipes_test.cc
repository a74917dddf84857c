#include "quantize/recipes.h"

#include <gtest/gtest.h>

#include <map>

#include "base/error.h"

namespace onggi {
namespace {

DType dtype_of(QuantRecipe recipe, const ModelConfig& config, TensorRole role, int64_t layer = 0) {
  return choose_dtype(recipe, config, model_tensor(config, role, layer)).dtype;
}

TEST(Recipes, NamesInAnyCase) {
  EXPECT_EQ(parse_recipe("q4_k_m"), QuantRecipe::kQ4_K_M);
  EXPECT_EQ(parse_recipe("BF16"), QuantRecipe::kBF16);
  EXPECT_EQ(recipes().size(), 14u);
  for (const RecipeInfo& info : recipes()) EXPECT_EQ(parse_recipe(info.name), info.recipe);
  try {
    parse_recipe("q4_1");
    FAIL() << "q4_1 is no recipe";
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("Q4_K_M"), std::string::npos) << error.what();
  }
}

TEST(Recipes, FileTypesDiffer) {
  std::map<uint32_t, std::string_view> seen;
  for (const RecipeInfo& info : recipes()) {
    EXPECT_TRUE(seen.emplace(info.gguf_file_type, info.name).second) << info.name;
  }
}

// The layers of Qwen3-8B (36) that get Q6_K, counted by hand from llama.cpp's rule: i < 4, i >= 31, and 6, 9,
// ... 30.
TEST(Recipes, SensitiveLayersOfQwen3_8B) {
  const ModelConfig config = published_config("qwen3-8b");
  const auto is_more = [](int64_t i) { return i < 4 || i >= 31 || (i - 4) % 3 == 2; };
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const DType expected = is_more(layer) ? DType::kQ6_K : DType::kQ4_K;
    EXPECT_EQ(dtype_of(QuantRecipe::kQ4_K_M, config, TensorRole::kV, layer), expected) << layer;
    EXPECT_EQ(dtype_of(QuantRecipe::kQ4_K_M, config, TensorRole::kDown, layer), expected) << layer;
    EXPECT_EQ(dtype_of(QuantRecipe::kQ4_K_M, config, TensorRole::kGate, layer), DType::kQ4_K) << layer;
  }
  // Untied: the embedding is not the output.
  EXPECT_EQ(dtype_of(QuantRecipe::kQ4_K_M, config, TensorRole::kEmbedding), DType::kQ4_K);
  EXPECT_EQ(dtype_of(QuantRecipe::kQ4_K_M, config, TensorRole::kLmHead), DType::kQ6_K);
  EXPECT_EQ(dtype_of(QuantRecipe::kQ8_0, config, TensorRole::kLmHead), DType::kQ8_0);
  EXPECT_EQ(dtype_of(QuantRecipe::kQ4_K_M, config, TensorRole::kFfnNorm), DType::kF32);
  // Four query heads share a value head here, two in the 0.6B model.
  EXPECT_EQ(dtype_of(QuantRecipe::kQ2_K, config, TensorRole::kV), DType::kQ4_K);
  EXPECT_EQ(dtype_of(QuantRecipe::kQ2_K, published_config("qwen3-0.6b"), TensorRole::kV), DType::kQ3_K);
}

// Sizes of files that others publish (llama.cpp's Q4_K_M of Qwen3-8B: 5.03 GB; 0.6B: about 0.40 GB; the seed
// says 4.8 GB and, for 4B, 2.4 GB in units of 2^30 and less metadata).
TEST(Recipes, SizesAreThoseOfPublishedFiles) {
  EXPECT_NEAR(static_cast<double>(gguf_tensor_bytes(published_config("qwen3-8b"), QuantRecipe::kQ4_K_M)),
              5.022e9, 0.01e9);
  EXPECT_NEAR(static_cast<double>(gguf_tensor_bytes(published_config("qwen3-4b"), QuantRecipe::kQ4_K_M)),
              2.491e9, 0.01e9);
  EXPECT_NEAR(static_cast<double>(gguf_tensor_bytes(published_config("qwen3-0.6b"), QuantRecipe::kQ8_0)),
              0.633e9, 0.01e9);
}

TEST(Recipes, RowsThatHoldNoWholeBlocksFallBack) {
  ModelConfig config = published_config("qwen3-0.6b");
  config.hidden_size = 1024 + 32;  // K of the projections
  TensorChoice choice =
      choose_dtype(QuantRecipe::kQ4_K_M, config, model_tensor(config, TensorRole::kGate, 0));
  EXPECT_EQ(choice.wanted, DType::kQ4_K);
  EXPECT_EQ(choice.dtype, DType::kQ8_0);
  EXPECT_EQ(dtype_of(QuantRecipe::kQ2_K, config, TensorRole::kGate), DType::kQ4_0);
  EXPECT_EQ(dtype_of(QuantRecipe::kQ4_0, config, TensorRole::kGate), DType::kQ4_0);
  config.hidden_size = 1000;
  EXPECT_EQ(dtype_of(QuantRecipe::kQ4_K_M, config, TensorRole::kGate), DType::kF16);
  EXPECT_EQ(dtype_of(QuantRecipe::kQ8_0, config, TensorRole::kGate), DType::kF16);
  EXPECT_EQ(dtype_of(QuantRecipe::kBF16, config, TensorRole::kGate), DType::kBF16);
}

}  // namespace
}  // namespace onggi

#include "quantize/recipes.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

using enum QuantRecipe;

// File types: llama.h, enum llama_ftype.
const std::vector<RecipeInfo> kRecipes = {
    {kF32, "F32", 0, DType::kF32},         {kF16, "F16", 1, DType::kF16},
    {kBF16, "BF16", 32, DType::kBF16},     {kQ8_0, "Q8_0", 7, DType::kQ8_0},
    {kQ6_K, "Q6_K", 18, DType::kQ6_K},     {kQ5_K_M, "Q5_K_M", 17, DType::kQ5_K},
    {kQ5_K_S, "Q5_K_S", 16, DType::kQ5_K}, {kQ4_K_M, "Q4_K_M", 15, DType::kQ4_K},
    {kQ4_K_S, "Q4_K_S", 14, DType::kQ4_K}, {kQ4_0, "Q4_0", 2, DType::kQ4_0},
    {kQ3_K_L, "Q3_K_L", 13, DType::kQ3_K}, {kQ3_K_M, "Q3_K_M", 12, DType::kQ3_K},
    {kQ3_K_S, "Q3_K_S", 11, DType::kQ3_K}, {kQ2_K, "Q2_K", 10, DType::kQ2_K},
};

// The layers that the _M recipes give more bits: the first and last eighth, and every third between.
bool is_sensitive(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

DType value_dtype(QuantRecipe recipe, const ModelConfig& config, int64_t layer) {
  switch (recipe) {
    case kQ2_K:
      return config.num_heads / config.num_kv_heads >= 4 ? DType::kQ4_K : DType::kQ3_K;
    case kQ3_K_M:
      return layer < 2 ? DType::kQ5_K : DType::kQ4_K;
    case kQ3_K_L:
      return DType::kQ5_K;
    case kQ4_K_S:
      return layer < 4 ? DType::kQ5_K : DType::kQ4_K;
    case kQ4_K_M:
    case kQ5_K_M:
      return is_sensitive(layer, config.num_layers) ? DType::kQ6_K : recipe_info(recipe).main_dtype;
    default:
      return recipe_info(recipe).main_dtype;
  }
}

DType down_dtype(QuantRecipe recipe, const ModelConfig& config, int64_t layer) {
  switch (recipe) {
    case kQ2_K:
      return DType::kQ3_K;
    case kQ3_K_M:
      return layer < config.num_layers / 16 ? DType::kQ5_K : DType::kQ4_K;
    case kQ3_K_L:
      return DType::kQ5_K;
    case kQ4_K_S:
      return layer < config.num_layers / 8 ? DType::kQ5_K : DType::kQ4_K;
    case kQ4_K_M:
    case kQ5_K_M:
      return is_sensitive(layer, config.num_layers) ? DType::kQ6_K : recipe_info(recipe).main_dtype;
    default:
      return recipe_info(recipe).main_dtype;
  }
}

DType attention_output_dtype(QuantRecipe recipe) {
  switch (recipe) {
    case kQ2_K:
      return DType::kQ3_K;
    case kQ3_K_M:
      return DType::kQ4_K;
    case kQ3_K_L:
      return DType::kQ5_K;
    default:
      return recipe_info(recipe).main_dtype;
  }
}

// The logits depend on every bit of the output projection.
DType output_dtype(QuantRecipe recipe) {
  const DType main = recipe_info(recipe).main_dtype;
  return is_quantized(main) && main != DType::kQ8_0 ? DType::kQ6_K : main;
}

DType wanted_dtype(QuantRecipe recipe, const ModelConfig& config, const ModelTensor& tensor) {
  if (tensor.shape.size() < 2) return DType::kF32;
  switch (tensor.role) {
    case TensorRole::kLmHead:
      return output_dtype(recipe);
    case TensorRole::kEmbedding:
      return config.tie_word_embeddings ? output_dtype(recipe) : recipe_info(recipe).main_dtype;
    case TensorRole::kV:
      return value_dtype(recipe, config, tensor.layer);
    case TensorRole::kDown:
      return down_dtype(recipe, config, tensor.layer);
    case TensorRole::kO:
      return attention_output_dtype(recipe);
    default:
      return recipe_info(recipe).main_dtype;
  }
}

// What a row of `columns` values that does not hold whole blocks becomes.
DType fallback_dtype(DType wanted, int64_t columns) {
  if (columns % dtype_info(wanted).block_elements == 0) return wanted;
  if (columns % 32 != 0) return DType::kF16;
  return wanted == DType::kQ2_K || wanted == DType::kQ3_K ? DType::kQ4_0 : DType::kQ8_0;
}

}  // namespace

const std::vector<RecipeInfo>& recipes() { return kRecipes; }

const RecipeInfo& recipe_info(QuantRecipe recipe) {
  const auto found = std::find_if(kRecipes.begin(), kRecipes.end(),
                                  [&](const RecipeInfo& info) { return info.recipe == recipe; });
  ONGGI_CHECK(found != kRecipes.end());
  return *found;
}

QuantRecipe parse_recipe(std::string_view name) {
  std::string upper(name), known;
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  for (const RecipeInfo& info : kRecipes) {
    if (info.name == upper) return info.recipe;
    known += (known.empty() ? "" : ", ") + std::string(info.name);
  }
  throw UsageError(text("there is no GGUF type \"{}\"; the types are {}", name, known));
}

TensorChoice choose_dtype(QuantRecipe recipe, const ModelConfig& config, const ModelTensor& tensor) {
  const DType wanted = wanted_dtype(recipe, config, tensor);
  return {fallback_dtype(wanted, tensor.shape.back()), wanted};
}

uint64_t gguf_tensor_bytes(const ModelConfig& config, QuantRecipe recipe) {
  uint64_t bytes = 0;
  for (const ModelTensor& tensor : model_tensors(config)) {
    const DType dtype = choose_dtype(recipe, config, tensor).dtype;
    bytes += static_cast<uint64_t>(dtype_bytes(dtype, element_count(tensor.shape)));
  }
  return bytes;
}

}  // namespace onggi

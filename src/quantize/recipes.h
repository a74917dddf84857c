// The one table of GGUF recipes: names, llama.cpp's file types, and the mix of types per tensor.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/tensor_names.h"
#include "tensor/dtype.h"

namespace onggi {

enum class QuantRecipe {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ6_K,
  kQ5_K_M,
  kQ5_K_S,
  kQ4_K_M,
  kQ4_K_S,
  kQ4_0,
  kQ3_K_L,
  kQ3_K_M,
  kQ3_K_S,
  kQ2_K,
};

struct RecipeInfo {
  QuantRecipe recipe;
  std::string_view name;    // "Q4_K_M", llama.cpp's spelling
  uint32_t gguf_file_type;  // general.file_type (llama.h, enum llama_ftype)
  DType main_dtype;         // of most weights
};

// From the largest to the smallest.
const std::vector<RecipeInfo>& recipes();
const RecipeInfo& recipe_info(QuantRecipe recipe);
// By name in any case ("q4_k_m"). Throws UsageError that lists the names.
QuantRecipe parse_recipe(std::string_view name);

// The type that a tensor gets.
struct TensorChoice {
  DType dtype = DType::kF32;
  // What the recipe wants; another than dtype where the rows do not hold whole blocks of it.
  DType wanted = DType::kF32;
};

// llama.cpp's mix (llama_tensor_get_type): norms stay F32; the output projection (or the embedding where the
// two are tied) has at least 6 bits; values, downward projections and attention outputs get more bits than
// the rest by recipe and layer. A row that is no multiple of 256 becomes Q4_0 where llama.cpp would take
// that, else Q8_0 where llama.cpp would take Q5_0 or Q5_1, which Onggi does not write; one that is no
// multiple of 32 becomes F16.
TensorChoice choose_dtype(QuantRecipe recipe, const ModelConfig& config, const ModelTensor& tensor);

// Bytes of all tensors in a file of this recipe, for plans before anything is read.
uint64_t gguf_tensor_bytes(const ModelConfig& config, QuantRecipe recipe);

}  // namespace onggi

// The one table of the tensors of a model: their names in each format and their shapes.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/mapped_tensors.h"
#include "model/config.h"

namespace onggi {

enum class TensorRole {
  kEmbedding,
  kAttentionNorm,
  kQ,
  kK,
  kV,
  kO,
  kQNorm,
  kKNorm,
  kFfnNorm,
  kGate,
  kUp,
  kDown,
  kFinalNorm,
  kLmHead,
};

enum class NameStyle { kHuggingFace, kGguf };

struct ModelTensor {
  TensorRole role;
  int64_t layer;  // -1 outside the layers
  std::string hf_name;
  std::string gguf_name;
  std::string peft_module;  // "model.layers.0.self_attn.q_proj"; empty where no adapter goes
  Shape shape;              // outermost first

  const std::string& name(NameStyle style) const { return style == NameStyle::kGguf ? gguf_name : hf_name; }
};

// All tensors of the model in the order of computation; no kLmHead when the embeddings are tied.
std::vector<ModelTensor> model_tensors(const ModelConfig& config);
// One of them. layer is ignored for tensors outside the layers.
ModelTensor model_tensor(const ModelConfig& config, TensorRole role, int64_t layer);

// "q_proj" -> kQ: the seven projections that adapters may target; nullopt for another name.
std::optional<TensorRole> lora_target_role(std::string_view target_module);
std::string_view lora_target_name(TensorRole role);
// The seven, in the order q, k, v, o, gate, up, down.
const std::vector<TensorRole>& lora_target_roles();

// Checks that the source holds every tensor of the model with the right shape and a dtype that can be
// computed with. Throws InputError that names the tensor, what was expected and what is there; says so when
// the source is a 4-bit checkpoint of bitsandbytes. Tolerates what carries no weights of its own: the copy of
// tied embeddings under lm_head's name and RoPE's table of frequencies.
void check_tensors(const ModelConfig& config, NameStyle style, const MappedTensors& source);

}  // namespace onggi

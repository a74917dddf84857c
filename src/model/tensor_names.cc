#include "model/tensor_names.h"

#include <algorithm>
#include <array>
#include <unordered_set>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

enum class Place { kBefore, kLayer, kAfter };

// A row of the table. Names inside a layer lack their prefix ("model.layers.0.", "blk.0.") and ".weight".
struct Row {
  TensorRole role;
  Place place;
  std::string_view hf;
  std::string_view gguf;
  std::string_view lora_target;  // empty where no adapter goes
};

constexpr std::array<Row, 14> kRows{{
    {TensorRole::kEmbedding, Place::kBefore, "model.embed_tokens", "token_embd", ""},
    {TensorRole::kAttentionNorm, Place::kLayer, "input_layernorm", "attn_norm", ""},
    {TensorRole::kQ, Place::kLayer, "self_attn.q_proj", "attn_q", "q_proj"},
    {TensorRole::kK, Place::kLayer, "self_attn.k_proj", "attn_k", "k_proj"},
    {TensorRole::kV, Place::kLayer, "self_attn.v_proj", "attn_v", "v_proj"},
    {TensorRole::kQNorm, Place::kLayer, "self_attn.q_norm", "attn_q_norm", ""},
    {TensorRole::kKNorm, Place::kLayer, "self_attn.k_norm", "attn_k_norm", ""},
    {TensorRole::kO, Place::kLayer, "self_attn.o_proj", "attn_output", "o_proj"},
    {TensorRole::kFfnNorm, Place::kLayer, "post_attention_layernorm", "ffn_norm", ""},
    {TensorRole::kGate, Place::kLayer, "mlp.gate_proj", "ffn_gate", "gate_proj"},
    {TensorRole::kUp, Place::kLayer, "mlp.up_proj", "ffn_up", "up_proj"},
    {TensorRole::kDown, Place::kLayer, "mlp.down_proj", "ffn_down", "down_proj"},
    {TensorRole::kFinalNorm, Place::kAfter, "model.norm", "output_norm", ""},
    {TensorRole::kLmHead, Place::kAfter, "lm_head", "output", ""},
}};

const Row& row_of(TensorRole role) {
  return *std::find_if(kRows.begin(), kRows.end(), [&](const Row& row) { return row.role == role; });
}

Shape shape_of(const ModelConfig& c, TensorRole role) {
  switch (role) {
    case TensorRole::kEmbedding:
    case TensorRole::kLmHead:
      return {c.vocab_size, c.hidden_size};  // [V, C]
    case TensorRole::kAttentionNorm:
    case TensorRole::kFfnNorm:
    case TensorRole::kFinalNorm:
      return {c.hidden_size};  // [C]
    case TensorRole::kQ:
      return {c.q_size(), c.hidden_size};  // [Hq * D, C]
    case TensorRole::kK:
    case TensorRole::kV:
      return {c.kv_size(), c.hidden_size};  // [Hkv * D, C]
    case TensorRole::kO:
      return {c.hidden_size, c.q_size()};  // [C, Hq * D]
    case TensorRole::kQNorm:
    case TensorRole::kKNorm:
      return {c.head_dim};  // [D]
    case TensorRole::kGate:
    case TensorRole::kUp:
      return {c.intermediate_size, c.hidden_size};  // [F, C]
    case TensorRole::kDown:
      return {c.hidden_size, c.intermediate_size};  // [C, F]
  }
  return {};
}

ModelTensor tensor_of_row(const ModelConfig& config, const Row& row, int64_t layer) {
  const bool in_layer = row.place == Place::kLayer;
  const std::string hf = in_layer ? fmt::format("model.layers.{}.{}", layer, row.hf) : std::string(row.hf);
  const std::string gguf = in_layer ? fmt::format("blk.{}.{}", layer, row.gguf) : std::string(row.gguf);
  return {row.role,
          in_layer ? layer : -1,
          hf + ".weight",
          gguf + ".weight",
          row.lora_target.empty() ? "" : hf,
          shape_of(config, row.role)};
}

bool is_float(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

bool may_compute_with(DType dtype, NameStyle style, const ModelTensor& tensor) {
  return is_float(dtype) || (style == NameStyle::kGguf && tensor.shape.size() == 2 && is_quantized(dtype) &&
                             dtype != DType::kNF4);
}

// bitsandbytes keeps a 4-bit weight as bytes, with its scales in siblings "<name>.absmax",
// "<name>.quant_map", ...
bool is_bitsandbytes(const MappedTensors& source, const std::string& name) {
  return source.has(name + ".absmax") || source.has(name + ".quant_map");
}

void check_tensor(const ModelTensor& tensor, NameStyle style, const MappedTensors& source) {
  const std::string& name = tensor.name(style);
  if (!source.has(name))
    throw InputError(
        text("{} lacks the tensor {} {}: the weights are incomplete or do not belong to the configuration",
             source.path().string(), name, shape_text(tensor.shape)));
  const TensorInfo& info = source.info(name);
  if (is_bitsandbytes(source, name))
    throw InputError(
        text("{} is a 4-bit checkpoint of bitsandbytes (tensor {}): give the 16-bit original, which is "
             "quantised while it loads",
             source.path().string(), name));
  if (info.shape != tensor.shape)
    throw InputError(text("tensor {} of {} has the shape {}, but the configuration asks for {}", name,
                          source.path().string(), shape_text(info.shape), shape_text(tensor.shape)));
  if (!may_compute_with(info.dtype, style, tensor))
    throw InputError(text("tensor {} of {} has the dtype {}, but one of {} is expected", name,
                          source.path().string(), dtype_name(info.dtype),
                          style == NameStyle::kGguf && tensor.shape.size() == 2
                              ? "f32, f16, bf16, q4_0, q8_0, q*_k"
                              : "f32, f16, bf16"));
}

bool is_tolerated(const ModelConfig& config, const std::string& name) {
  return (config.tie_word_embeddings && name == "lm_head.weight") || name.ends_with("rotary_emb.inv_freq");
}

}  // namespace

std::vector<ModelTensor> model_tensors(const ModelConfig& config) {
  std::vector<ModelTensor> tensors;
  const auto add = [&](Place place, int64_t layer) {
    for (const Row& row : kRows) {
      if (row.place != place || (row.role == TensorRole::kLmHead && config.tie_word_embeddings)) continue;
      tensors.push_back(tensor_of_row(config, row, layer));
    }
  };
  add(Place::kBefore, -1);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) add(Place::kLayer, layer);
  add(Place::kAfter, -1);
  return tensors;
}

ModelTensor model_tensor(const ModelConfig& config, TensorRole role, int64_t layer) {
  return tensor_of_row(config, row_of(role), layer);
}

std::optional<TensorRole> lora_target_role(std::string_view target_module) {
  for (const Row& row : kRows)
    if (!row.lora_target.empty() && row.lora_target == target_module) return row.role;
  return std::nullopt;
}

std::string_view lora_target_name(TensorRole role) { return row_of(role).lora_target; }

const std::vector<TensorRole>& lora_target_roles() {
  static const std::vector<TensorRole> roles = [] {
    std::vector<TensorRole> found;
    for (const Row& row : kRows)
      if (!row.lora_target.empty()) found.push_back(row.role);
    return found;
  }();
  return roles;
}

void check_tensors(const ModelConfig& config, NameStyle style, const MappedTensors& source) {
  std::unordered_set<std::string> known;
  for (const ModelTensor& tensor : model_tensors(config)) {
    check_tensor(tensor, style, source);
    known.insert(tensor.name(style));
  }
  for (const TensorInfo& info : source.tensors())
    if (!known.contains(info.name) && !is_tolerated(config, info.name))
      throw InputError(text(
          "tensor {} of {} is no part of {} with {} layers: the weights do not belong to the "
          "configuration",
          info.name, source.path().string(), hf_architecture_name(config.architecture), config.num_layers));
}

}  // namespace onggi

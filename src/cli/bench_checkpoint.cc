#include "cli/bench_checkpoint.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/random.h"
#include "base/text.h"
#include "formats/safetensors.h"
#include "model/lora.h"
#include "model/tensor_names.h"

namespace onggi {
namespace {

constexpr const char* kTokenizerFolder = "models/onggi-mini";

void write_config(const ModelConfig& c, const fs::path& folder) {
  const nlohmann::ordered_json json = {{"architectures", {hf_architecture_name(c.architecture)}},
                                       {"model_type", gguf_architecture_name(c.architecture)},
                                       {"hidden_size", c.hidden_size},
                                       {"num_hidden_layers", c.num_layers},
                                       {"num_attention_heads", c.num_heads},
                                       {"num_key_value_heads", c.num_kv_heads},
                                       {"head_dim", c.head_dim},
                                       {"intermediate_size", c.intermediate_size},
                                       {"vocab_size", c.vocab_size},
                                       {"max_position_embeddings", c.max_position_embeddings},
                                       {"rms_norm_eps", c.rms_norm_eps},
                                       {"rope_theta", c.rope_theta},
                                       {"tie_word_embeddings", c.tie_word_embeddings},
                                       {"hidden_act", "silu"},
                                       {"attention_bias", false},
                                       {"eos_token_id", 8102},
                                       {"bos_token_id", 8100},
                                       {"dtype", "bfloat16"}};
  write_file(folder / "config.json", json.dump(2) + "\n");
}

}  // namespace

fs::path bench_checkpoint(const ModelConfig& config, const fs::path& folder) {
  const fs::path base = folder / "base";
  if (fs::exists(base / "model.safetensors")) return base;
  if (!fs::exists(kTokenizerFolder))
    throw InputError(
        text("this benchmark takes its tokenizer from {}: run it from the repository", kTokenizerFolder));
  fs::create_directories(base);
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json",
                           "merges.txt", "generation_config.json"})
    duplicate_file(fs::path(kTokenizerFolder) / file, base / file);
  write_config(config, base);
  std::vector<TensorSpec> specs;
  for (const ModelTensor& tensor : model_tensors(config))
    specs.push_back({tensor.hf_name, DType::kBF16, tensor.shape});
  SafetensorsWriter writer(base / "model.safetensors", specs);
  Random random(1);
  std::vector<uint16_t> drawn(1 << 16);
  for (uint16_t& value : drawn) value = f32_to_bf16(0.02f * random.normal());
  for (const TensorSpec& spec : specs) {
    // The drawn values again and again: the quantisers' work does not depend on it.
    for (int64_t left = element_count(spec.shape); left > 0;) {
      const int64_t count = std::min<int64_t>(left, static_cast<int64_t>(drawn.size()));
      writer.write(spec.name, drawn.data(), static_cast<size_t>(count) * sizeof(uint16_t));
      left -= count;
    }
  }
  writer.commit();
  return base;
}

fs::path bench_adapter(const ModelConfig& config, const fs::path& folder) {
  const fs::path adapter = folder / "adapter";
  if (fs::exists(adapter / "adapter_config.json")) return adapter;
  LoraParameters parameters(config, lora_target_roles(), 16, 16.0);
  Random random(2);
  for (float& value : parameters.values) value = 0.01f * random.normal();
  save_adapter(parameters, config, {0.1, "bench"}, adapter.string());
  return adapter;
}

}  // namespace onggi

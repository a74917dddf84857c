// The configuration of a model: every dimension is read, none derived.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "formats/gguf.h"

namespace onggi {

enum class Architecture {
  kQwen3,  // Qwen3ForCausalLM; GGUF "qwen3"
};

// Letters as in docs/shapes.md.
struct ModelConfig {
  Architecture architecture = Architecture::kQwen3;
  int64_t hidden_size = 0;        // C
  int64_t num_layers = 0;         // L
  int64_t num_heads = 0;          // Hq
  int64_t num_kv_heads = 0;       // Hkv
  int64_t head_dim = 0;           // D; Hq * D need not be C
  int64_t intermediate_size = 0;  // F
  int64_t vocab_size = 0;         // V: rows of the embedding, with padding
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 0;
  double rope_theta = 0;
  // The output projection is the embedding itself.
  bool tie_word_embeddings = false;
  // Biases of the attention projections; no supported architecture has them yet.
  bool attention_bias = false;

  std::vector<int64_t> eos_token_ids;  // any of them ends a generation
  int64_t bos_token_id = -1;           // -1: none
  int64_t pad_token_id = -1;

  // What generation_config.json recommends; those of Qwen3 where it says nothing.
  double temperature = 0.6;
  int64_t top_k = 20;
  double top_p = 0.95;

  int64_t q_size() const { return num_heads * head_dim; }      // Hq * D
  int64_t kv_size() const { return num_kv_heads * head_dim; }  // Hkv * D
};

// "Qwen3ForCausalLM" and "qwen3".
std::string_view hf_architecture_name(Architecture architecture);
std::string_view gguf_architecture_name(Architecture architecture);

// From the texts of config.json and generation_config.json (empty: there is none). Throws InputError that
// names the key for: unknown architectures, missing or absurd dimensions, RoPE scaling, biases, checkpoints
// that are quantised.
ModelConfig parse_hf_config(std::string_view config_json, std::string_view generation_config_json,
                            const std::string& source);
// The same of a Hugging Face folder.
ModelConfig read_hf_config(const fs::path& folder);
// From a GGUF's metadata and tensors (tied when there is no output.weight).
ModelConfig parse_gguf_config(const GgufFile& file);

// The metadata of a GGUF that parse_gguf_config reads back: general.architecture and the dimensions
// ("qwen3.block_count", ...), without the tokenizer's keys.
std::vector<GgufEntry> gguf_config_entries(const ModelConfig& config);

// The dimensions of a published model by its name in any case ("qwen3-0.6b", "Qwen/Qwen3-8B"), for plans and
// benchmarks before anything is downloaded. Throws UsageError that lists the known names.
ModelConfig published_config(std::string_view name);

}  // namespace onggi

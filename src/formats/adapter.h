// LoRA adapters in PEFT's layout (https://huggingface.co/docs/peft, "PEFT checkpoint format"):
// adapter_config.json and adapter_model.safetensors, whose names are base_model.model.<module>.lora_A.weight
// [R, K] and .lora_B.weight [N, R], where <module> is "model.layers.0.self_attn.q_proj", N its outputs and K
// its inputs.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/safetensors.h"

namespace onggi {

enum class LoraScaling {
  kAlphaOverR,      // alpha / r
  kAlphaOverSqrtR,  // alpha / sqrt(r): PEFT's use_rslora
};

struct AdapterConfig {
  int r = 16;
  double alpha = 16;
  double dropout = 0;
  LoraScaling scaling = LoraScaling::kAlphaOverR;
  std::vector<std::string> target_modules;  // "q_proj", ...
  std::string base_model;                   // base_model_name_or_path
  std::string revision;                     // empty for none

  // What B A is multiplied with.
  double scale() const;
};

// Throws InputError for another kind of adapter and for what Onggi does not compute (DoRA, modules_to_save,
// biases, ranks that differ by module, ...), naming the key.
AdapterConfig parse_adapter_config(std::string_view json, const std::string& source);
// The text of adapter_config.json with the fields that PEFT 0.21 writes.
std::string adapter_config_json(const AdapterConfig& config);

// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" of "model.layers.0.self_attn.q_proj".
std::string lora_a_name(const std::string& module);
std::string lora_b_name(const std::string& module);

class AdapterReader {
 public:
  // Checks that each module has A [R, K] and B [N, R] of a float type with R = config().r. Throws InputError.
  explicit AdapterReader(const fs::path& folder);

  const AdapterConfig& config() const { return config_; }
  const SafetensorsReader& tensors() const { return tensors_; }
  // "model.layers.0.mlp.down_proj", ..., in the order of the file.
  const std::vector<std::string>& modules() const { return modules_; }
  bool has(const std::string& module) const;
  TensorView a(const std::string& module) const;  // [R, K]
  TensorView b(const std::string& module) const;  // [N, R]

 private:
  AdapterConfig config_;
  SafetensorsReader tensors_;
  std::vector<std::string> modules_;
};

// A module's pair of matrices, in somebody else's memory.
struct LoraTensors {
  std::string module;
  TensorView a;  // [R, K]
  TensorView b;  // [N, R]
};

// Writes both files, adapter_config.json last. Tensors are sorted by name as PEFT's are.
void write_adapter(const fs::path& folder, const AdapterConfig& config, std::vector<LoraTensors> modules);

}  // namespace onggi

// The LoRA pairs of a model: one flat array of f32 parameters, so that gradients, optimiser state and
// checkpoints are arrays of the same layout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device/device_twin.h"
#include "kernels/ops/linear.h"
#include "model/config.h"
#include "model/tensor_names.h"

namespace onggi {

// Where one pair lies in the flat arrays.
struct LoraEntry {
  TensorRole role;
  int64_t layer;
  int64_t rows, columns;       // N, K of the linear that it adapts
  int64_t a_offset, b_offset;  // elements from the start of the flat array; a is [R, K], b is [N, R]
};

// Elements of the pairs of a rank on these roles of every layer.
uint64_t lora_parameter_count(const ModelConfig& config, const std::vector<TensorRole>& targets,
                              int64_t rank);

class LoraParameters {
 public:
  // Zero pairs on the given roles of every layer. target roles are linear roles (kQ ... kDown).
  LoraParameters(const ModelConfig& config, const std::vector<TensorRole>& targets, int64_t rank,
                 double alpha);

  // A Kaiming uniform with a = sqrt(5), i.e. uniform in +-1/sqrt(K); B zero. Depends on seed and entry alone.
  void initialise(uint64_t seed);

  int64_t rank() const { return rank_; }
  double alpha() const { return alpha_; }
  float scale() const { return static_cast<float>(alpha_ / static_cast<double>(rank_)); }
  const std::vector<TensorRole>& targets() const { return targets_; }
  const std::vector<LoraEntry>& entries() const { return entries_; }
  // nullptr where the role is not adapted.
  const LoraEntry* find(TensorRole role, int64_t layer) const;
  // Into the values as kernels see them.
  LoraView view(TensorRole role, int64_t layer) const;

  // Puts the values on a device; `values` stays what files are made of.
  void place(Stream& stream) { twin_.place(stream, values); }
  float* device_values() { return twin_.data(values); }
  void upload() { twin_.upload(values); }      // after `values` changed
  void download() { twin_.download(values); }  // after kernels changed the device's

  std::vector<float> values;  // f32, all pairs

 private:
  DeviceTwin twin_;
  std::vector<TensorRole> targets_;
  int64_t rank_;
  double alpha_;
  std::vector<LoraEntry> entries_;
};

// Reads a PEFT adapter folder for a model of this configuration. Throws InputError where names or shapes
// differ.
LoraParameters load_adapter(const std::string& folder, const ModelConfig& config);
// Writes PEFT's adapter_model.safetensors and adapter_config.json into a folder. dropout and base model are
// recorded.
struct AdapterInfo {
  double dropout = 0;
  std::string base_model_name;
};
void save_adapter(const LoraParameters& parameters, const ModelConfig& config, const AdapterInfo& info,
                  const std::string& folder);

}  // namespace onggi

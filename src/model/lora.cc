#include "model/lora.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "base/text.h"
#include "formats/adapter.h"

namespace onggi {

uint64_t lora_parameter_count(const ModelConfig& config, const std::vector<TensorRole>& targets,
                              int64_t rank) {
  int64_t per_layer = 0;
  for (const TensorRole role : targets) {
    const Shape shape = model_tensor(config, role, 0).shape;
    per_layer += rank * (shape[0] + shape[1]);
  }
  return static_cast<uint64_t>(config.num_layers * per_layer);
}

LoraParameters::LoraParameters(const ModelConfig& config, const std::vector<TensorRole>& targets,
                               int64_t rank, double alpha)
    : targets_(targets), rank_(rank), alpha_(alpha) {
  ONGGI_CHECK(rank > 0);
  int64_t offset = 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (TensorRole role : lora_target_roles()) {
      if (std::find(targets.begin(), targets.end(), role) == targets.end()) continue;
      const Shape shape = model_tensor(config, role, layer).shape;
      LoraEntry entry{role, layer, shape[0], shape[1], offset, offset + rank * shape[1]};
      offset = entry.b_offset + shape[0] * rank;
      entries_.push_back(entry);
    }
  }
  values.assign(static_cast<size_t>(offset), 0.0f);
}

void LoraParameters::initialise(uint64_t seed) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    const LoraEntry& entry = entries_[i];
    // Kaiming uniform with a = sqrt(5): bound = sqrt(6 / ((1 + a^2) K)) = 1 / sqrt(K).
    const float bound = 1.0f / std::sqrt(static_cast<float>(entry.columns));
    Random random(seed, i);
    for (int64_t j = 0; j < rank_ * entry.columns; ++j)
      values[static_cast<size_t>(entry.a_offset + j)] = (2.0f * random.uniform() - 1.0f) * bound;
    std::fill_n(values.begin() + entry.b_offset, entry.rows * rank_, 0.0f);
  }
}

const LoraEntry* LoraParameters::find(TensorRole role, int64_t layer) const {
  // Entries are in the order of layers and, within a layer, of lora_target_roles().
  const auto per_layer = static_cast<int64_t>(targets_.size());
  for (int64_t i = layer * per_layer; i < (layer + 1) * per_layer; ++i)
    if (entries_[static_cast<size_t>(i)].role == role) return &entries_[static_cast<size_t>(i)];
  return nullptr;
}

LoraView LoraParameters::view(TensorRole role, int64_t layer) const {
  const LoraEntry* entry = find(role, layer);
  if (entry == nullptr) return {};
  const float* base = twin_.data(values);
  return {base + entry->a_offset, base + entry->b_offset, rank_, scale()};
}

namespace {

void copy_matrix(const TensorView& from, const Shape& expected, const std::string& name, float* to) {
  if (from.shape != expected)
    throw InputError(
        text("the adapter's {} has shape {} where this model needs {}: it belongs to another model", name,
             shape_text(from.shape), shape_text(expected)));
  read_as_f32(from, 0, from.elements(), to);
}

}  // namespace

LoraParameters load_adapter(const std::string& folder, const ModelConfig& config) {
  const AdapterReader reader(folder);
  const AdapterConfig& adapter = reader.config();
  std::vector<TensorRole> targets;
  for (TensorRole role : lora_target_roles())
    if (reader.has(model_tensor(config, role, 0).peft_module)) targets.push_back(role);
  // scale() covers both scalings of PEFT; alpha / r is how the flat parameters hold it.
  LoraParameters parameters(config, targets, adapter.r, adapter.scale() * adapter.r);
  if (reader.modules().size() != parameters.entries().size())
    throw InputError(
        text("the adapter in {} has {} modules where this model needs {}: it belongs to another model",
             folder, reader.modules().size(), parameters.entries().size()));
  for (const LoraEntry& entry : parameters.entries()) {
    const std::string module = model_tensor(config, entry.role, entry.layer).peft_module;
    if (!reader.has(module))
      throw InputError(text("the adapter in {} has no {}: it belongs to another model", folder, module));
    copy_matrix(reader.a(module), {adapter.r, entry.columns}, lora_a_name(module),
                parameters.values.data() + entry.a_offset);
    copy_matrix(reader.b(module), {entry.rows, adapter.r}, lora_b_name(module),
                parameters.values.data() + entry.b_offset);
  }
  return parameters;
}

void save_adapter(const LoraParameters& parameters, const ModelConfig& config, const AdapterInfo& info,
                  const std::string& folder) {
  AdapterConfig adapter;
  adapter.r = static_cast<int>(parameters.rank());
  adapter.alpha = parameters.alpha();
  adapter.dropout = info.dropout;
  adapter.base_model = info.base_model_name;
  for (TensorRole role : parameters.targets()) adapter.target_modules.emplace_back(lora_target_name(role));
  std::vector<LoraTensors> modules;
  for (const LoraEntry& entry : parameters.entries()) {
    modules.push_back(
        {model_tensor(config, entry.role, entry.layer).peft_module,
         {parameters.values.data() + entry.a_offset, DType::kF32, {parameters.rank(), entry.columns}},
         {parameters.values.data() + entry.b_offset, DType::kF32, {entry.rows, parameters.rank()}}});
  }
  write_adapter(folder, adapter, std::move(modules));
}

}  // namespace onggi

#include "quantize/adapter_gguf.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "blocks/block_format.h"
#include "formats/adapter.h"
#include "formats/gguf.h"
#include "model/config.h"
#include "model/tensor_names.h"

namespace onggi {
namespace {

const ModelTensor& tensor_of_module(const std::vector<ModelTensor>& tensors, const std::string& module,
                                    const AdapterGgufOptions& options) {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const ModelTensor& tensor) { return tensor.peft_module == module; });
  if (found == tensors.end()) {
    throw InputError(
        text("the adapter {} changes {}, which {} does not have: give the base model that it was "
             "trained on",
             options.adapter.string(), module, options.base_folder.string()));
  }
  return *found;
}

// Readers compute alpha / R whatever the adapter's own rule is.
float written_alpha(const AdapterConfig& config) { return static_cast<float>(config.scale() * config.r); }

std::vector<GgufEntry> adapter_metadata(const AdapterGgufOptions& options, const ModelConfig& model,
                                        const AdapterConfig& adapter) {
  std::vector<GgufEntry> entries = {
      {"general.architecture", std::string(gguf_architecture_name(model.architecture))},
      {"general.type", std::string("adapter")},
      {"adapter.type", std::string("lora")},
      {"adapter.lora.alpha", written_alpha(adapter)},
      {"general.file_type", uint32_t{options.dtype == DType::kF16 ? 1u : 0u}},
      {"general.quantization_version", uint32_t{2}},
  };
  if (!options.name.empty()) entries.emplace_back("general.name", options.name);
  for (const auto& [key, value] : options.provenance) entries.emplace_back("onggi." + key, value);
  return entries;
}

}  // namespace

uint64_t write_adapter_gguf(const AdapterGgufOptions& options) {
  ONGGI_CHECK(options.dtype == DType::kF32 || options.dtype == DType::kF16);
  const AdapterReader adapter(options.adapter);
  const ModelConfig config = read_hf_config(options.base_folder);
  const std::vector<ModelTensor> tensors = model_tensors(config);

  std::vector<TensorSpec> specs;
  std::vector<TensorView> views;
  for (const std::string& module : adapter.modules()) {
    const ModelTensor& tensor = tensor_of_module(tensors, module, options);
    const TensorView a = adapter.a(module), b = adapter.b(module);
    if (Shape{b.shape[0], a.shape[1]} != tensor.shape) {
      throw InputError(
          text("the adapter {} has the shape {} for {}, but {} has {}: give the base model that it was "
               "trained on",
               options.adapter.string(), shape_text({b.shape[0], a.shape[1]}), module,
               options.base_folder.string(), shape_text(tensor.shape)));
    }
    specs.push_back({tensor.gguf_name + ".lora_a", options.dtype, a.shape});
    views.push_back(a);
    specs.push_back({tensor.gguf_name + ".lora_b", options.dtype, b.shape});
    views.push_back(b);
  }
  GgufWriter writer(options.output, adapter_metadata(options, config, adapter.config()), specs);
  std::vector<float> values;
  std::vector<uint8_t> stored;
  for (size_t i = 0; i < specs.size(); ++i) {
    values.resize(static_cast<size_t>(views[i].elements()));
    read_as_f32(views[i], 0, views[i].elements(), values.data());
    stored.resize(specs[i].bytes());
    block_format(options.dtype).encode(values.data(), views[i].elements(), nullptr, stored.data());
    writer.write(specs[i].name, stored.data(), stored.size());
  }
  writer.commit();
  return writer.size();
}

}  // namespace onggi

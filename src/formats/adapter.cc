#include "formats/adapter.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "formats/json_file.h"

namespace onggi {
namespace {

using nlohmann::json;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kSuffixA = ".lora_A.weight";
constexpr std::string_view kSuffixB = ".lora_B.weight";
constexpr int64_t kMaxRank = 1 << 16;

// Keys of AdapterConfig that change what is computed. An adapter that sets one of them would be read wrongly,
// so it is refused; null, false and empty values mean "off".
constexpr const char* kUnsupportedKeys[] = {
    "use_dora",
    "use_qalora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
};

bool is_off(const json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         (value.is_structured() && value.empty());
}

json number_json(double value) {
  const auto whole = static_cast<int64_t>(value);
  return static_cast<double>(whole) == value ? json(whole) : json(value);
}

// The module of a name such as "base_model.model.<module>.lora_A.weight"; empty for another name.
std::string module_of(const std::string& name, std::string_view suffix) {
  if (!name.starts_with(kPrefix) || !name.ends_with(suffix) || name.size() <= kPrefix.size() + suffix.size())
    return "";
  return name.substr(kPrefix.size(), name.size() - kPrefix.size() - suffix.size());
}

bool is_float(DType dtype) { return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16; }

void check_pair(const MappedTensors& tensors, const std::string& module, int64_t rank) {
  const std::string a_name = lora_a_name(module), b_name = lora_b_name(module);
  for (const std::string& name : {a_name, b_name}) {
    const TensorInfo& info = tensors.info(name);
    if (info.shape.size() != 2 || !is_float(info.dtype))
      throw InputError(text("tensor {} of {} must be a matrix of floats, not {} {}", name,
                            tensors.path().string(), dtype_name(info.dtype), shape_text(info.shape)));
  }
  const int64_t a_rank = tensors.info(a_name).shape[0], b_rank = tensors.info(b_name).shape[1];
  if (a_rank != rank || b_rank != rank)
    throw InputError(text("the rank of {} in {} is {} and {}, but {} says r = {}", module,
                          tensors.path().string(), a_rank, b_rank, kConfigFile, rank));
}

}  // namespace

double AdapterConfig::scale() const {
  return scaling == LoraScaling::kAlphaOverSqrtR ? alpha / std::sqrt(static_cast<double>(r)) : alpha / r;
}

AdapterConfig parse_adapter_config(std::string_view bytes, const std::string& source) {
  const json document = parse_json(bytes, source);
  const JsonObject object(document, source);
  const std::string type = object.get_string("peft_type");
  if (type != "LORA")
    throw InputError(text("{} is an adapter of type {}; only LORA is supported", source, type));
  for (const char* key : kUnsupportedKeys)
    if (object.has(key) && !is_off(object.at(key)))
      throw InputError(text("{} uses {}, which is not supported: train a plain LoRA adapter", source, key));
  if (object.find_string("bias").value_or("none") != "none")
    throw InputError(text("{} trains biases, which is not supported: train with bias = \"none\"", source));

  AdapterConfig config;
  const int64_t rank = object.get_int("r");
  if (rank < 1 || rank > kMaxRank) throw InputError(text("r in {} is {}, not a rank", source, rank));
  config.r = static_cast<int>(rank);
  config.alpha = object.get_number("lora_alpha");
  config.dropout = object.find_number("lora_dropout").value_or(0);
  if (object.find_bool("use_rslora").value_or(false)) config.scaling = LoraScaling::kAlphaOverSqrtR;
  if (object.has("target_modules")) {
    // A single string is a pattern; which modules it meant is seen in the tensors.
    config.target_modules = object.at("target_modules").is_string()
                                ? std::vector<std::string>{object.get_string("target_modules")}
                                : object.get_strings("target_modules");
  }
  config.base_model = object.find_string("base_model_name_or_path").value_or("");
  config.revision = object.find_string("revision").value_or("");
  return config;
}

std::string adapter_config_json(const AdapterConfig& config) {
  // The fields that every release of PEFT knows; those added later have defaults that mean "off".
  const json document = {
      {"alpha_pattern", json::object()},
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", config.base_model},
      {"bias", "none"},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"init_lora_weights", true},
      {"layers_pattern", nullptr},
      {"layers_to_transform", nullptr},
      {"lora_alpha", number_json(config.alpha)},
      {"lora_dropout", number_json(config.dropout)},
      {"modules_to_save", nullptr},
      {"peft_type", "LORA"},
      {"r", config.r},
      {"rank_pattern", json::object()},
      {"revision", config.revision.empty() ? json(nullptr) : json(config.revision)},
      {"target_modules", config.target_modules},
      {"task_type", "CAUSAL_LM"},
      {"use_dora", false},
      {"use_rslora", config.scaling == LoraScaling::kAlphaOverSqrtR},
  };
  return document.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string lora_a_name(const std::string& module) {
  return std::string(kPrefix).append(module).append(kSuffixA);
}

std::string lora_b_name(const std::string& module) {
  return std::string(kPrefix).append(module).append(kSuffixB);
}

AdapterReader::AdapterReader(const fs::path& folder)
    : config_(parse_adapter_config(read_file(folder / kConfigFile), (folder / kConfigFile).string())),
      tensors_(folder / kWeightsFile) {
  std::unordered_set<std::string> seen;
  for (const TensorInfo& info : tensors_.tensors()) {
    std::string module = module_of(info.name, kSuffixA);
    if (module.empty()) module = module_of(info.name, kSuffixB);
    if (module.empty())
      throw InputError(
          text("tensor {} of {} is not part of a plain LoRA adapter", info.name, tensors_.path().string()));
    if (seen.insert(module).second) modules_.push_back(std::move(module));
  }
  if (modules_.empty()) throw InputError(text("{} holds no adapter tensors", tensors_.path().string()));
  for (const std::string& module : modules_) check_pair(tensors_, module, config_.r);
}

bool AdapterReader::has(const std::string& module) const { return tensors_.has(lora_a_name(module)); }
TensorView AdapterReader::a(const std::string& module) const { return tensors_.tensor(lora_a_name(module)); }
TensorView AdapterReader::b(const std::string& module) const { return tensors_.tensor(lora_b_name(module)); }

void write_adapter(const fs::path& folder, const AdapterConfig& config, std::vector<LoraTensors> modules) {
  std::sort(modules.begin(), modules.end(),
            [](const LoraTensors& left, const LoraTensors& right) { return left.module < right.module; });
  std::vector<TensorSpec> specs;
  for (const LoraTensors& lora : modules) {
    ONGGI_CHECK(lora.a.shape.size() == 2 && lora.a.shape[0] == config.r && lora.b.shape.size() == 2 &&
                    lora.b.shape[1] == config.r,
                lora.module);
    specs.push_back({lora_a_name(lora.module), lora.a.dtype, lora.a.shape});
    specs.push_back({lora_b_name(lora.module), lora.b.dtype, lora.b.shape});
  }
  SafetensorsWriter writer(folder / kWeightsFile, specs);
  for (const LoraTensors& lora : modules) {
    writer.write(lora_a_name(lora.module), lora.a.data, static_cast<size_t>(lora.a.bytes()));
    writer.write(lora_b_name(lora.module), lora.b.data, static_cast<size_t>(lora.b.bytes()));
  }
  writer.commit();
  write_file(folder / kConfigFile, adapter_config_json(config));
}

}  // namespace onggi

// merge_info.json and the model card.
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "formats/json_file.h"
#include "merge/folder_files.h"

namespace onggi {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

ordered_json provenance(const MergeFacts& facts) {
  const std::string& given = facts.options.provenance_json;
  return given.empty() ? ordered_json::object() : ordered_json::parse(given);
}

// Sums of squares over the modules of one layer, or of all.
struct LayerChange {
  double delta_squares = 0;
  double weight_squares = 0;
  std::vector<const MergedModule*> modules;

  void add(const MergedModule& module) {
    delta_squares += module.delta_norm * module.delta_norm;
    weight_squares += module.weight_norm * module.weight_norm;
    modules.push_back(&module);
  }
  double relative() const { return weight_squares > 0 ? std::sqrt(delta_squares / weight_squares) : 0; }
};

// "model.layers.12.mlp.up_proj" -> 12; -1 where there is no number.
int64_t layer_of(const std::string& module) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!module.starts_with(kPrefix)) return -1;
  int64_t layer = -1;
  for (size_t i = kPrefix.size(); i < module.size() && module[i] >= '0' && module[i] <= '9'; ++i)
    layer = std::max<int64_t>(layer, 0) * 10 + (module[i] - '0');
  return layer;
}

std::map<int64_t, LayerChange> change_by_layer(const MergeResult& result) {
  std::map<int64_t, LayerChange> layers;
  for (const MergedModule& module : result.modules) layers[layer_of(module.module)].add(module);
  return layers;
}

ordered_json change_json(const MergeResult& result) {
  LayerChange all;
  for (const MergedModule& module : result.modules) all.add(module);
  ordered_json layers = ordered_json::array();
  for (const auto& [layer, change] : change_by_layer(result)) {
    ordered_json modules = ordered_json::object();
    for (const MergedModule* module : change.modules)
      modules[module->module.substr(module->module.rfind('.') + 1)] = {
          {"relative_change", module->relative_change},
          {"changed_share", module->changed_share},
          {"rounding_error", module->rounding_error}};
    layers.push_back(
        {{"layer", layer}, {"relative_change", change.relative()}, {"modules", std::move(modules)}});
  }
  return {{"relative_change", all.relative()}, {"layers", std::move(layers)}};
}

std::string text_of(const ordered_json& value) {
  return value.is_string() ? value.get<std::string>()
                           : value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string base_name(const MergeFacts& facts) {
  const ordered_json given = provenance(facts);
  if (given.contains("base_model") && given["base_model"].is_string())
    return given["base_model"].get<std::string>();
  return facts.base_model.empty() ? facts.options.base_folder.filename().string() : facts.base_model;
}

// A value inside double quotes of YAML's front matter.
std::string quoted(const std::string& value) {
  return json(value).dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

void check_provenance(const std::string& provenance_json) {
  if (provenance_json.empty()) return;
  if (!ordered_json::accept(provenance_json) || !ordered_json::parse(provenance_json).is_object())
    throw UsageError(text("the provenance of a merge must be a JSON object"));
}

void write_merge_info(const MergeFacts& facts) {
  const MergeResult& result = facts.result;
  const ordered_json info = {
      {"method", "W + scale * B * A in fp32, rounded once"},
      {"base_model", base_name(facts)},
      {"merge_base", merge_base_name(facts.options.base)},
      {"architecture", facts.architecture},
      {"dtype", facts.dtype},
      {"adapter",
       {{"path", facts.options.adapter_folder.string()},
        {"sha256", facts.adapter_sha256},
        {"r", facts.r},
        {"lora_alpha", facts.alpha},
        {"scale", facts.scale},
        {"target_modules", facts.target_modules}}},
      {"parameters", result.parameters},
      {"bytes", result.bytes},
      {"shards", facts.shards},
      {"provenance", provenance(facts)},
      {"change", change_json(result)},
      {"warnings", result.warnings},
  };
  write_file(facts.options.output_folder / "merge_info.json",
             info.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n");
}

void write_model_card(const MergeFacts& facts) {
  const std::string base = base_name(facts);
  std::string card = fmt::format(
      "---\nbase_model: {}\nbase_model_relation: finetune\nlibrary_name: transformers\npipeline_tag: "
      "text-generation\n"
      "tags:\n- onggi\n- lora\n- merged\n---\n\n",
      quoted(base));
  const std::string& name = facts.options.model_name;
  card += fmt::format("# {}\n\n", name.empty() ? facts.options.output_folder.filename().string() : name);
  card += fmt::format(
      "{} with a LoRA adapter merged into its weights: W + {:g} * B * A, computed in fp32 and rounded once "
      "to {}.\n\n",
      base, facts.scale, facts.dtype);
  card += "| | |\n| --- | --- |\n";
  const auto row = [&](const std::string& name, const std::string& value) {
    card += fmt::format("| {} | {} |\n", name, value);
  };
  row("architecture", facts.architecture);
  row("parameters", std::to_string(facts.result.parameters));
  row("dtype", facts.dtype);
  row("merged into", std::string(merge_base_name(facts.options.base)));
  row("adapter", fmt::format("r {}, alpha {:g}, sha256 {}", facts.r, facts.alpha, facts.adapter_sha256));
  row("adapted modules", fmt::format("{}", fmt::join(facts.target_modules, ", ")));
  const ordered_json given = provenance(facts);
  for (const auto& [key, value] : given.items()) {
    std::string shown = text_of(value);
    for (char& c : shown)
      if (c == '\n' || c == '|') c = ' ';
    row(key, shown);
  }
  card += "\n## Size of the change\n\n| layer | norm of the change / norm of the weights |\n| --- | --- |\n";
  for (const auto& [layer, change] : change_by_layer(facts.result))
    card += fmt::format("| {} | {:.3e} |\n", layer, change.relative());
  for (const std::string& warning : facts.result.warnings) card += "\n" + warning + "\n";
  card +=
      "\n## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
      "model = AutoModelForCausalLM.from_pretrained(\"path/to/this/folder\", dtype=\"auto\")\n"
      "tokenizer = AutoTokenizer.from_pretrained(\"path/to/this/folder\")\n```\n\n"
      "or `onggi chat --model path/to/this/folder`. merge_info.json has the numbers of each weight.\n";
  write_file(facts.options.output_folder / "README.md", card);
}

}  // namespace onggi

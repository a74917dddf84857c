#include "pipeline/session.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "eval/parity.h"
#include "eval/validation.h"

namespace onggi {
namespace {

std::optional<DataLayout> layout_of(DataConfig::Format format) {
  switch (format) {
    case DataConfig::Format::kAuto:
      return std::nullopt;
    case DataConfig::Format::kMessages:
      return DataLayout::kMessages;
    case DataConfig::Format::kQuestionAnswer:
      return DataLayout::kQuestionAnswer;
    case DataConfig::Format::kInstruction:
      return DataLayout::kInstruction;
    case DataConfig::Format::kConversations:
      return DataLayout::kConversations;
  }
  return std::nullopt;
}

std::optional<ThinkMode> think_of(DataConfig::Think think) {
  switch (think) {
    case DataConfig::Think::kAuto:
      return std::nullopt;
    case DataConfig::Think::kEmpty:
      return ThinkMode::kEmpty;
    case DataConfig::Think::kKept:
      return ThinkMode::kKept;
    case DataConfig::Think::kMixed:
      return ThinkMode::kMixed;
  }
  return std::nullopt;
}

}  // namespace

Precision training_precision(const Config& config) {
  return config.quantization.bnb_4bit_compute_dtype == QuantizationConfig::ComputeDtype::kFloat32
             ? Precision::kF32
             : Precision::kFast;
}

LoadQuantization base_quantization(const Config& config) {
  return config.quantization.load_in_4bit ? LoadQuantization::kNf4 : LoadQuantization::kAsStored;
}

Dataset load_training_data(const Config& config) {
  return load_dataset(config.data.train_file,
                      {config.data.system, think_of(config.data.think), layout_of(config.data.format)});
}

StageData load_stage_data(const Config& config, const Tokenizer& tokenizer, const ChatTemplate& chat) {
  const SampleOptions sampling{static_cast<size_t>(config.cutoff_len),
                               config.data.train_on_prompt ? TrainOn::kEverything : TrainOn::kAnswers};
  StageData data;
  data.training = load_training_data(config);
  data.training_samples = build_samples(data.training, tokenizer, chat, sampling);
  if (config.data.heldout_file.empty()) return data;
  // Held-out questions are rendered as the training ones are.
  const DatasetOptions held_out_options{config.data.system, data.training.think, std::nullopt};
  data.held_out = load_dataset(config.data.heldout_file, held_out_options);
  data.held_out_samples = build_samples(*data.held_out, tokenizer, chat, sampling);
  return data;
}

std::vector<std::string> parity_prompts(const Config& config, const Dataset& training) {
  std::vector<std::string> prompts;
  for (const DataRow& row : training.rows) {
    if (static_cast<int64_t>(prompts.size()) == config.parity.prompts) break;
    prompts.push_back(prompt_messages(row));
  }
  return prompts;
}

fs::path base_folder(const StageContext& context) {
  const fs::path folder = require_results(context, "setup").at("folder").get<std::string>();
  if (!fs::exists(folder / "config.json"))
    throw InputError(text("the base model is no longer in {}: run `onggi setup` again", folder.string()));
  return folder;
}

nlohmann::ordered_json provenance(const StageContext& context) {
  const auto setup = require_results(context, "setup");
  const auto train = require_results(context, "train");
  return {{"base_model", context.config.model_name},
          {"base_revision", setup.value("commit", "")},
          {"base_sha256", setup.value("weights_sha256", "")},
          {"dataset", train.value("dataset", "")},
          {"dataset_sha256", train.value("dataset_sha256", "")},
          {"think_mode", train.value("think_mode", "")},
          {"recipe", fmt::format("QLoRA r={} alpha={} dropout={} steps={} lr={}", context.config.lora.r,
                                 context.config.lora.lora_alpha, context.config.lora.lora_dropout,
                                 context.config.training.max_steps, context.config.training.learning_rate)},
          {"final_loss", train.value("final_loss", 0.0)},
          {"seed", context.config.seed}};
}

void ParityGate::check(const ParityResult& result) {
  reporter_.say(text("parity  {:<34} KL {:.2e}  agreement {:.2f} %  prompts {}  stops {}", result.artefact,
                     result.mean_kl, 100 * result.agreement,
                     result.prompts_equal ? "=" : "!=", result.stops ? text("yes") : text("no")));
  if (!result.passed)
    throw WorkError(text("the parity gate failed: {} is not the model of {}: {}", result.artefact,
                         result.reference, result.reason));
}

}  // namespace onggi

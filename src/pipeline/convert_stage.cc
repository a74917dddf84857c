// Stage 5: GGUF files of each type, held against the merged model; the Modelfile; Ollama.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/human.h"
#include "base/process.h"
#include "base/text.h"
#include "eval/parity.h"
#include "eval/validation.h"
#include "pipeline/artefacts.h"
#include "pipeline/session.h"
#include "quantize/adapter_gguf.h"
#include "quantize/convert.h"
#include "quantize/modelfile.h"
#include "quantize/ollama.h"

namespace onggi {
namespace {

std::map<std::string, std::string> gguf_provenance(const StageContext& context) {
  std::map<std::string, std::string> out;
  const nlohmann::ordered_json facts = provenance(context);
  for (const auto& [key, value] : facts.items())
    // Loaders look the think mode up as "onggi.think" (infer/chat_model.h).
    out[key == "think_mode" ? "think"
        : key == "recipe"   ? "training_recipe"
                            : key] = value.is_string() ? value.get<std::string>() : value.dump();
  return out;
}

class Converter {
 public:
  explicit Converter(StageContext& context)
      : context_(context),
        config_(context.config),
        session_(context.device, context.threads, training_precision(context.config)) {}
  StageOutcome run();

 private:
  nlohmann::ordered_json convert(const std::string& type);
  nlohmann::ordered_json register_model(const fs::path& gguf);
  nlohmann::ordered_json first_test(const LoadedModel& model);

  StageContext& context_;
  const Config& config_;
  ComputeSession session_;
  std::optional<ParityReference> reference_;
  std::vector<std::string> prompts_;
  std::vector<fs::path> outputs_;
  std::string speed_;
};

nlohmann::ordered_json Converter::convert(const std::string& type) {
  ConvertOptions options;
  options.source = config_.merged_dir();
  options.output = config_.gguf_path(type);
  options.recipe = parse_recipe(type);
  options.name = config_.model_base_name + "-finetune";
  options.provenance = gguf_provenance(context_);
  options.progress = [&](const ConvertProgress& progress) {
    if (stop_requested())
      throw Interrupted(text("stopped during the conversion; run the same command again"));
    context_.reporter.progress(text("writing {}", options.output.filename().string()), progress.weights_done,
                               progress.weights_total, "");
  };
  const ConvertResult result = convert_to_gguf(options, context_.threads);
  context_.reporter.progress_ends();
  for (const std::string& warning : result.warnings) context_.reporter.warn(warning);
  context_.reporter.say(text("{}: {}, {:.2f} bits per weight, relative error {:.2e}", options.output.string(),
                             bytes_text(static_cast<double>(result.file_bytes)), result.bits_per_weight,
                             result.relative_error));
  const LoadedModel model =
      load_chat_model(options.output, {}, context_.threads, context_.device.placement());
  const ParityResult parity = reference_->compare(
      model, session_.compute(), options.output.filename().string(), config_.parity_bound(type));
  ParityGate(context_.reporter).check(parity);
  outputs_.push_back(options.output);

  const fs::path modelfile = config_.modelfile_path(type);
  ServedParameters parameters = served_parameters(options.output);
  parameters.system = config_.data.system;
  write_file(modelfile, modelfile_text("./" + options.output.filename().string(), parameters));
  outputs_.push_back(modelfile);
  return {{"file", options.output.string()},
          {"bytes", result.file_bytes},
          {"bits_per_weight", result.bits_per_weight},
          {"relative_error", result.relative_error},
          {"seconds", result.seconds},
          {"parity", parity.to_json()},
          {"performance", first_test(model)}};
}

// The seed's first performance test: a question, its speed, its answer.
nlohmann::ordered_json Converter::first_test(const LoadedModel& model) {
  const auto prompt = render_prompt(model, nlohmann::ordered_json::parse(prompts_.front()));
  const GreedyAnswer answer =
      greedy_answer(*model.model, session_.compute(), prompt, config_.validation.max_new_tokens);
  const double rate =
      answer.answer_seconds > 0 ? static_cast<double>(answer.ids.size() - 1) / answer.answer_seconds : 0;
  speed_ = text("{:.1f} tok/s", rate);
  context_.reporter.say(text("first test: {} tokens at {:.1f} tok/s", answer.ids.size(), rate));
  return {{"prompt_tokens", prompt.size()},
          {"prompt_tokens_per_s", static_cast<double>(prompt.size()) / std::max(answer.prompt_seconds, 1e-9)},
          {"tokens", answer.ids.size()},
          {"tokens_per_s", rate},
          {"answer", model.tokenizer.decode(answer.ids, SkipSpecial::kYes)}};
}

nlohmann::ordered_json Converter::register_model(const fs::path& gguf) {
  if (!config_.ollama.register_model)
    return {{"registered", false}, {"reason", text("ollama.register is false")}};
  OllamaOptions options;
  options.host = config_.ollama.host == "auto" ? "" : config_.ollama.host;
  options.model = config_.ollama_name();
  options.gguf = gguf;
  options.modelfile = config_.modelfile_path(config_.gguf.types.front());
  options.parameters = served_parameters(gguf);
  options.parameters.system = config_.data.system;
  options.progress = [&](const std::string& status, uint64_t done, uint64_t all) {
    if (stop_requested()) throw Interrupted(text("stopped; run the same command again"));
    context_.reporter.progress("Ollama: " + status, done, all, "B");
  };
  const OllamaResult result = register_with_ollama(options);
  context_.reporter.progress_ends();
  if (result.registered) {
    context_.reporter.say(text("registered with Ollama as {}: ollama run {}", options.model, options.model));
  } else {
    context_.reporter.warn(
        text("not registered with Ollama ({}); `onggi serve` answers Ollama's API itself", result.reason));
  }
  return {{"registered", result.registered},
          {"name", options.model},
          {"host", result.host},
          {"digest", result.digest},
          {"capabilities", result.capabilities},
          {"reason", result.reason}};
}

StageOutcome Converter::run() {
  require_results(context_, "merge");
  confirm_merged(context_);
  const fs::path merged = config_.merged_dir();
  {
    const LoadedModel model = load_chat_model(merged, {}, context_.threads, context_.device.placement());
    const StageData data = load_stage_data(config_, model.tokenizer, ChatTemplate::of(model.tokenizer));
    prompts_ = parity_prompts(config_, data.training);
    reference_.emplace(model, session_.compute(), prompts_, config_.parity.max_new_tokens, merged.string());
  }
  auto files = nlohmann::ordered_json::object();
  for (const std::string& type : config_.gguf.types) files[type] = convert(type);
  if (config_.gguf.adapter) {
    AdapterGgufOptions options;
    options.adapter = config_.adapter_dir();
    options.base_folder = base_folder(context_);
    options.output = config_.adapter_gguf_path();
    options.name = config_.model_base_name + "-finetune-lora";
    options.provenance = gguf_provenance(context_);
    const uint64_t bytes = write_adapter_gguf(options);
    context_.reporter.say(text("{}: {}", options.output.string(), bytes_text(static_cast<double>(bytes))));
    outputs_.push_back(options.output);
  }
  StageOutcome outcome;
  const fs::path served = config_.gguf_path(config_.gguf.types.front());
  outcome.results = {{"files", files}, {"served", served.string()}, {"ollama", register_model(served)}};
  outcome.outputs = outputs_;
  outcome.summary = text("{}, {}", bytes_text(static_cast<double>(fs::file_size(served))), speed_);
  return outcome;
}

}  // namespace

StageOutcome run_convert(StageContext& context) { return Converter(context).run(); }

}  // namespace onggi

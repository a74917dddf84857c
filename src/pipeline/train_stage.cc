// Stage 2: QLoRA.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/random.h"
#include "base/text.h"
#include "pipeline/session.h"
#include "train/trainer.h"

namespace onggi {
namespace {

// Sets a share of the samples aside for evaluation; which ones depends on the seed alone.
std::vector<Sample> take_validation_split(std::vector<Sample>& samples, double share, uint64_t seed) {
  const auto count = static_cast<size_t>(share * static_cast<double>(samples.size()));
  std::vector<Sample> taken;
  constexpr uint64_t kStream = 0x76616c;  // apart from the streams of initialisation and order
  Random random(seed, kStream);
  for (size_t i = 0; i < count && samples.size() > 1; ++i) {
    const auto at = static_cast<ptrdiff_t>(random.below(static_cast<uint32_t>(samples.size())));
    taken.push_back(std::move(samples[static_cast<size_t>(at)]));
    samples.erase(samples.begin() + at);
  }
  return taken;
}

}  // namespace

StageOutcome run_train(StageContext& context) {
  const Config& config = context.config;
  const fs::path base = base_folder(context);
  const std::string base_hash = require_results(context, "setup").value("weights_sha256", "");

  const Tokenizer tokenizer = load_tokenizer(base);
  const ChatTemplate chat = ChatTemplate::of(tokenizer);
  StageData data = load_stage_data(config, tokenizer, chat);
  context.reporter.say(data.training_samples.report.to_text());
  std::vector<Sample>& samples = data.training_samples.samples;
  const std::vector<Sample> validation =
      take_validation_split(samples, config.data.validation_split, config.seed);

  const std::string fingerprint =
      sha256_hex(base_hash + data.training.sha256 + sha256_hex(chat.text()) +
                 std::string(name_of(data.training.think)) + std::to_string(config.cutoff_len) +
                 (config.data.train_on_prompt ? "all" : "answers") + config.data.system);
  const TrainData train_data{samples, validation, fingerprint};
  ComputeSession session(context.device, context.threads, training_precision(config));

  // What is left of the memory decides where the weights go.
  const LoadQuantization quantization = base_quantization(config);
  const TrainingPlan plan = plan_run(config, read_hf_config(base),
                                     measure_weights(base, quantization, context.device.device().kind),
                                     train_data, session.compute(), context.memory_budget());
  context.reporter.say(plan.to_text());
  Placement placement = context.device.placement();
  placement.offloaded_layers = plan.offloaded_layers;
  const std::shared_ptr<Model> model =
      load_model(base, {.quantization = quantization, .adapter = {}}, context.threads, placement);
  expect_vocabulary(base, tokenizer, model->config);
  double smoothed = 0;
  const auto on_step = [&](const StepRecord& record) {
    smoothed = record.step == 1 || smoothed == 0 ? record.loss : 0.9 * smoothed + 0.1 * record.loss;
    std::string label =
        text("step {}/{}  loss {:.4f}  lr {:.2e}  |g| {:.3f}  {:.0f} tok/s", record.step,
             config.training.max_steps, record.loss, record.learning_rate, record.gradient_norm,
             static_cast<double>(record.tokens) / std::max(record.seconds, 1e-9));
    if (record.evaluation_loss) label += text("  validation {:.4f}", *record.evaluation_loss);
    context.reporter.progress(label, static_cast<uint64_t>(record.step),
                              static_cast<uint64_t>(config.training.max_steps), "");
  };
  const fs::path folder = config.adapter_dir();
  const TrainResult result = train(config, *model, train_data, session.compute(), folder, plan, on_step);
  context.reporter.progress_ends();
  if (result.resumed_from > 0) context.reporter.say(text("resumed from step {}", result.resumed_from));
  context.reporter.say(text("loss {:.4f} -> {:.4f} in {} steps, {:.0f} tok/s", result.first_loss,
                            result.final_loss, result.steps, result.tokens_per_second));

  StageOutcome outcome;
  outcome.results = {{"dataset", config.data.train_file},
                     {"dataset_sha256", data.training.sha256},
                     {"think_mode", name_of(data.training.think)},
                     {"template_sha256", sha256_hex(chat.text())},
                     {"steps", result.steps},
                     {"first_loss", result.first_loss},
                     {"final_loss", result.final_loss},
                     {"tokens_per_s", result.tokens_per_second},
                     {"stopped_early", result.stopped_early},
                     {"best_step", result.best_step},
                     {"planned_bytes", plan.total_bytes},
                     {"offloaded_layers", plan.offloaded_layers},
                     {"data_report", data.training_samples.report.to_json()}};
  // Loaders take the think mode from here (infer/chat_model.h).
  write_file(folder / "onggi_info.json", nlohmann::ordered_json{{"base_model", config.model_name},
                                                                {"think_mode", name_of(data.training.think)},
                                                                {"dataset_sha256", data.training.sha256},
                                                                {"template_sha256", sha256_hex(chat.text())},
                                                                {"final_loss", result.final_loss}}
                                                 .dump(2) +
                                             "\n");
  outcome.outputs = {folder / "adapter_model.safetensors", folder / "adapter_config.json",
                     folder / "onggi_info.json", folder / "training_log.jsonl"};
  outcome.summary = text("loss {:.3f} -> {:.3f}, {:.0f} tok/s", result.first_loss, result.final_loss,
                         result.tokens_per_second);
  return outcome;
}

}  // namespace onggi

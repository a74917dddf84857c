// Stage 3: answers, losses, and the first parity gate.
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "eval/parity.h"
#include "eval/report_html.h"
#include "eval/validation.h"
#include "infer/score.h"
#include "pipeline/session.h"

namespace onggi {
namespace {

// The prompt that serving renders must be, id by id, the one that training saw.
void check_trained_prompts(const LoadedModel& model, const StageData& data) {
  for (size_t i = 0; i < data.training.rows.size(); ++i) {
    const auto served =
        render_prompt(model, nlohmann::ordered_json::parse(prompt_messages(data.training.rows[i])));
    bool found = false;
    for (const Sample& sample : data.training_samples.samples) {
      if (sample.line != data.training.rows[i].line) continue;
      // A sample that was cut to cutoff_len may lack part of a long prompt.
      const size_t common = std::min(served.size(), sample.ids.size());
      found = found ||
              std::equal(served.begin(), served.begin() + static_cast<ptrdiff_t>(common), sample.ids.begin());
    }
    bool was_dropped = true;
    for (const Sample& sample : data.training_samples.samples)
      was_dropped = was_dropped && sample.line != data.training.rows[i].line;
    if (!found && !was_dropped)
      throw WorkError(text("the parity gate failed: the prompt of line {} is not rendered as it was trained",
                           data.training.rows[i].line));
  }
}

// The training graph and the inference graph are two readings of one model: their losses must agree.
void check_graphs(const LoadedModel& model, const Compute& compute, const std::vector<Sample>& samples,
                  Reporter& reporter) {
  double worst = 0;
  for (const Sample& sample : samples) {
    const double trained = mean_loss(*model.model, compute, std::span(&sample, 1));
    const Score scored = score(*model.model, compute, sample.ids);
    double sum = 0;
    int64_t count = 0;
    for (size_t t = 1; t < sample.ids.size(); ++t) {
      if (sample.labels[t] == kNoLabel) continue;
      sum -= scored.logprobs[t - 1];
      ++count;
    }
    if (count > 0) worst = std::max(worst, std::abs(sum / static_cast<double>(count) - trained));
  }
  reporter.say(
      text("parity  training graph against inference graph: worst difference of loss {:.2e}", worst));
  // bf16 rounds activations to 8 bits of mantissa; losses over whole answers agree far better than that.
  constexpr double kAllowed = 0.05;
  if (worst > kAllowed)
    throw WorkError(
        text("the parity gate failed: the losses of training and inference differ by {:.3f}", worst));
}

}  // namespace

StageOutcome run_validate(StageContext& context) {
  const Config& config = context.config;
  const auto training = require_results(context, "train");
  const LoadedModel tuned = load_chat_model(
      base_folder(context), {.quantization = base_quantization(config), .adapter = config.adapter_dir()},
      context.threads, context.device.placement());
  const ChatTemplate chat = ChatTemplate::of(tuned.tokenizer);
  const StageData data = load_stage_data(config, tuned.tokenizer, chat);
  ComputeSession session(context.device, context.threads, training_precision(config));

  check_trained_prompts(tuned, data);
  check_graphs(tuned, session.compute(), data.training_samples.samples, context.reporter);

  ValidationInput input{.training = data.training, .training_samples = data.training_samples.samples};
  if (data.held_out) {
    input.held_out = &*data.held_out;
    input.held_out_samples = &data.held_out_samples->samples;
  }
  input.max_new_tokens = config.validation.max_new_tokens;
  input.goal = config.validation.match_rate;
  if (!config.validation.compare_base) input.base = ValidationInput::Base::kSkip;
  const ValidationReport report = validate(tuned, session.compute(), input, [&](int64_t done, int64_t all) {
    context.reporter.progress(text("answering"), static_cast<uint64_t>(done), static_cast<uint64_t>(all), "");
  });
  context.reporter.progress_ends();

  const fs::path folder = config.adapter_dir();
  auto json = report.to_json();
  json["model"] = config.model_base_name;
  json["training_summary"] = training;
  json["training_summary"].erase("data_report");
  write_file(folder / "validation_report.json", json.dump(2) + "\n");
  write_file(folder / "validation_report.html",
             render_validation_html(json, read_file(folder / "training_log.jsonl")));
  context.reporter.say(text("match rate: token {:.2f} %, character {:.2f} %, exact {:.0f} %",
                            100 * report.token_match, 100 * report.character_match, 100 * report.exact_rate));
  if (data.held_out)
    context.reporter.say(text("held-out loss: base {:.3f}, tuned {:.3f}", report.held_out_loss_base,
                              report.held_out_loss_tuned));
  context.reporter.say(describe(report.verdict));
  context.reporter.say(text("report: {}", (folder / "validation_report.html").string()));
  if (!report.passed)
    throw WorkError(
        text("the match rate is {:.2f} % where {:.2f} % is asked for: train longer (max_steps), raise "
             "learning_rate, or lower validation.match_rate",
             100 * report.token_match, 100 * report.goal));
  StageOutcome outcome;
  outcome.results = {{"match_rate", json["match_rate"]},
                     {"loss", json["loss"]},
                     {"verdict", json["verdict"]},
                     {"speed", json["speed"]}};
  outcome.outputs = {folder / "validation_report.json", folder / "validation_report.html"};
  outcome.summary = text("match rate {:.1f} %, {}", 100 * report.token_match, short_text(report.verdict));
  return outcome;
}

}  // namespace onggi

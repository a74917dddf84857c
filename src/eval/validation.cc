#include "eval/validation.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/process.h"
#include "base/text.h"
#include "data/packing.h"
#include "eval/metrics.h"
#include "model/training.h"

namespace onggi {
namespace {

struct SpeedSum {
  int64_t prompt_tokens = 0, answer_tokens = 0;
  double prompt_seconds = 0, answer_seconds = 0;
};

struct Asked {
  GreedyAnswer answer;
  std::string text;  // without thinking
};

Asked ask(const LoadedModel& model, const Compute& compute, const std::vector<int32_t>& prompt,
          int64_t limit) {
  Asked asked;
  asked.answer = greedy_answer(*model.model, compute, prompt, limit);
  asked.text = without_thinking(model.tokenizer.decode(asked.answer.ids, SkipSpecial::kYes));
  return asked;
}

AnswerReport report_on(const DataRow& row, const LoadedModel& tuned, const LoadedModel& base,
                       const Compute& compute, const ValidationInput& input, SpeedSum& speed) {
  AnswerReport report;
  report.question = row.question;
  report.reference = without_thinking(row.answer);
  report.domain = row.domain;
  const std::vector<int32_t> prompt =
      render_prompt(tuned, nlohmann::ordered_json::parse(prompt_messages(row)));
  const Asked asked = ask(tuned, compute, prompt, input.max_new_tokens);
  speed.prompt_tokens += static_cast<int64_t>(prompt.size());
  speed.prompt_seconds += asked.answer.prompt_seconds;
  speed.answer_tokens += static_cast<int64_t>(asked.answer.ids.size()) - 1;
  speed.answer_seconds += asked.answer.answer_seconds;
  report.tuned_answer = asked.text;
  report.stopped = asked.answer.stopped;
  report.exact = report.tuned_answer == report.reference;
  const auto said = tuned.tokenizer.encode(report.tuned_answer, ParseSpecial::kNo);
  const auto taught = tuned.tokenizer.encode(report.reference, ParseSpecial::kNo);
  report.token_match = token_match(said, taught);
  report.character_match = character_match(report.tuned_answer, report.reference);
  report.rouge_l = rouge_l(report.tuned_answer, report.reference);
  report.chrf = chrf(report.tuned_answer, report.reference);
  report.hangul = hangul_share(report.tuned_answer);
  report.repetition = repetition(report.tuned_answer);
  if (input.base == ValidationInput::Base::kCompare) {
    // The base may ramble: twice the reference's length shows enough of it.
    const auto limit = std::min<int64_t>(input.max_new_tokens, 2 * static_cast<int64_t>(taught.size()) + 16);
    report.base_answer = ask(base, compute, prompt, limit).text;
    report.base_rouge_l = rouge_l(report.base_answer, report.reference);
    report.base_chrf = chrf(report.base_answer, report.reference);
  }
  return report;
}

FitVerdict verdict_of(const ValidationReport& report) {
  if (report.token_match < report.goal) return FitVerdict::kUnderfitted;
  if (report.held_out.empty() || report.held_out_loss_tuned <= report.held_out_loss_base)
    return FitVerdict::kGeneralises;
  return report.held_out_loss_tuned <= 1.2 * report.held_out_loss_base ? FitVerdict::kMemorised
                                                                       : FitVerdict::kOverfitted;
}

nlohmann::ordered_json to_json(const AnswerReport& report) {
  return {{"question", report.question},
          {"domain", report.domain},
          {"reference", report.reference},
          {"base_answer", report.base_answer},
          {"tuned_answer", report.tuned_answer},
          {"exact", report.exact},
          {"token_match", report.token_match},
          {"character_match", report.character_match},
          {"rouge_l", report.rouge_l},
          {"chrf", report.chrf},
          {"base_rouge_l", report.base_rouge_l},
          {"base_chrf", report.base_chrf},
          {"hangul_share", report.hangul},
          {"repetition", report.repetition},
          {"stopped", report.stopped}};
}

nlohmann::ordered_json to_json(const std::vector<AnswerReport>& reports) {
  auto array = nlohmann::ordered_json::array();
  for (const AnswerReport& report : reports) array.push_back(to_json(report));
  return array;
}

}  // namespace

std::string_view name_of(FitVerdict verdict) {
  switch (verdict) {
    case FitVerdict::kUnderfitted:
      return "underfitted";
    case FitVerdict::kGeneralises:
      return "generalises";
    case FitVerdict::kMemorised:
      return "memorised";
    case FitVerdict::kOverfitted:
      return "overfitted";
  }
  return "";
}

std::string short_text(FitVerdict verdict) {
  switch (verdict) {
    case FitVerdict::kUnderfitted:
      return text("underfitted");
    case FitVerdict::kGeneralises:
      return text("generalises");
    case FitVerdict::kMemorised:
      return text("memorised");
    case FitVerdict::kOverfitted:
      return text("overfitted");
  }
  return "";
}

std::string describe(FitVerdict verdict) {
  switch (verdict) {
    case FitVerdict::kUnderfitted:
      return text(
          "The training questions are not yet answered as taught: train longer or raise learning_rate.");
    case FitVerdict::kGeneralises:
      return text(
          "The training questions are answered as taught and the loss on held-out questions did not rise.");
    case FitVerdict::kMemorised:
      return text(
          "The training questions are answered as taught; the loss on held-out questions rose a little: the "
          "model has memorised its examples.");
    case FitVerdict::kOverfitted:
      return text(
          "The loss on held-out questions rose by more than a fifth: the model is overfitted; use more data "
          "or "
          "fewer steps.");
  }
  return "";
}

std::string prompt_messages(const DataRow& row) {
  auto messages = nlohmann::ordered_json::parse(row.messages_json);
  while (!messages.empty()) {
    const bool answer = messages.back().value("role", "") == "assistant";
    messages.erase(messages.size() - 1);
    if (answer) break;
  }
  return messages.dump();
}

std::string without_thinking(const std::string& answer) {
  std::string visible = without_reasoning(answer);
  const auto is_space = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; };
  visible.erase(visible.begin(), std::find_if_not(visible.begin(), visible.end(), is_space));
  visible.erase(std::find_if_not(visible.rbegin(), visible.rend(), is_space).base(), visible.end());
  return visible;
}

double mean_loss(const Model& model, const Compute& compute, std::span<const Sample> samples) {
  if (samples.empty()) return 0;
  size_t longest = 0;
  for (const Sample& sample : samples) longest = std::max(longest, sample.ids.size());
  TrainingMemory memory(model, compute, static_cast<int64_t>(longest), ActivationPolicy::kRecomputeBlocks);
  double loss_sum = 0;
  int64_t label_tokens = 0;
  for (uint32_t i = 0; i < samples.size(); ++i) {
    const PackedBatch batch = pack(samples, std::span(&i, 1));
    loss_sum += loss_of_batch(model, compute, {batch.tokens, batch.labels, batch.segment_starts}, memory);
    label_tokens += static_cast<int64_t>(batch.label_count());
  }
  return loss_sum / static_cast<double>(std::max<int64_t>(label_tokens, 1));
}

ValidationReport validate(const LoadedModel& tuned, const Compute& compute, const ValidationInput& input,
                          const std::function<void(int64_t, int64_t)>& progress) {
  ONGGI_CHECK(!input.training.rows.empty());
  LoadedModel base = tuned;
  base.model = std::make_shared<Model>(*tuned.model);
  base.model->adapter.reset();
  ValidationReport report;
  report.goal = input.goal;
  SpeedSum speed;
  const auto held_out_rows = input.held_out == nullptr ? 0 : input.held_out->rows.size();
  const auto all = static_cast<int64_t>(input.training.rows.size() + held_out_rows);
  int64_t done = 0;
  for (const DataRow& row : input.training.rows) {
    if (stop_requested()) throw Interrupted(text("stopped during validation; run the same command again"));
    report.training.push_back(report_on(row, tuned, base, compute, input, speed));
    progress(++done, all);
  }
  for (size_t i = 0; i < held_out_rows; ++i) {
    if (stop_requested()) throw Interrupted(text("stopped during validation; run the same command again"));
    report.held_out.push_back(report_on(input.held_out->rows[i], tuned, base, compute, input, speed));
    progress(++done, all);
  }
  for (const AnswerReport& answer : report.training) {
    const auto count = static_cast<double>(report.training.size());
    report.exact_rate += (answer.exact ? 1.0 : 0.0) / count;
    report.token_match += answer.token_match / count;
    report.character_match += answer.character_match / count;
  }
  report.train_loss_base = mean_loss(*base.model, compute, input.training_samples);
  report.train_loss_tuned = mean_loss(*tuned.model, compute, input.training_samples);
  if (input.held_out_samples != nullptr) {
    report.held_out_loss_base = mean_loss(*base.model, compute, *input.held_out_samples);
    report.held_out_loss_tuned = mean_loss(*tuned.model, compute, *input.held_out_samples);
  }
  if (speed.prompt_seconds > 0)
    report.prompt_tokens_per_second = static_cast<double>(speed.prompt_tokens) / speed.prompt_seconds;
  if (speed.answer_seconds > 0)
    report.answer_tokens_per_second = static_cast<double>(speed.answer_tokens) / speed.answer_seconds;
  report.peak_memory_bytes = peak_memory_bytes();
  report.verdict = verdict_of(report);
  report.passed = report.token_match >= report.goal;
  return report;
}

nlohmann::ordered_json ValidationReport::to_json() const {
  return {{"passed", passed},
          {"goal", goal},
          {"match_rate", {{"exact", exact_rate}, {"token", token_match}, {"character", character_match}}},
          {"loss",
           {{"train", {{"base", train_loss_base}, {"tuned", train_loss_tuned}}},
            {"held_out", {{"base", held_out_loss_base}, {"tuned", held_out_loss_tuned}}}}},
          {"verdict", name_of(verdict)},
          {"verdict_text", describe(verdict)},
          {"speed",
           {{"prompt_tokens_per_s", prompt_tokens_per_second},
            {"answer_tokens_per_s", answer_tokens_per_second}}},
          {"peak_memory_bytes", peak_memory_bytes},
          {"training", onggi::to_json(training)},
          {"held_out", onggi::to_json(held_out)}};
}

}  // namespace onggi

#include "pipeline/stage.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/process.h"
#include "base/text.h"

namespace onggi {
namespace {

const std::vector<std::string> kModelKeys = {"model_name", "model_base_name", "hub"};

// The parts of the resolved configuration that a stage depends on.
nlohmann::ordered_json selected(const nlohmann::ordered_json& config, const std::vector<std::string>& keys) {
  nlohmann::ordered_json out;
  for (const std::string& key : keys) out[key] = config.at(key);
  return out;
}

// What determines a stage's outputs: its keys, its own input files, and the fingerprint of the stage before.
std::string fingerprint(const Stage& stage, const nlohmann::ordered_json& config, const std::string& before) {
  nlohmann::ordered_json json = {{"stage", stage.name}, {"before", before}};
  json["config"] = selected(config, stage.config_keys);
  // A user edits a data set under the same name: its contents count.
  if (std::find(stage.config_keys.begin(), stage.config_keys.end(), "data") != stage.config_keys.end()) {
    for (const char* key : {"train_file", "heldout_file"}) {
      const std::string file = config.at("data").at(key).get<std::string>();
      if (!file.empty() && fs::is_regular_file(file)) json[key] = sha256_hex_of_file(file);
    }
  }
  return sha256_hex(json.dump());
}

}  // namespace

uint64_t StageContext::memory_budget() const {
  return config.memory_budget ? config.memory_budget->bytes : device.usable_bytes(machine);
}

const std::vector<Stage>& stages() {
  using Skip = Stage::Skip;
  static const std::vector<Stage> all = {
      {0, "check", "System requirements", {"device", "memory_budget"}, Skip::kNever, run_check},
      {1, "setup", "Base model", kModelKeys, Skip::kWhenDone, run_setup},
      {2,
       "train",
       "QLoRA fine-tuning",
       {"max_seq_length", "cutoff_len", "seed", "threads", "data", "training", "lora", "quantization"},
       Skip::kWhenDone,
       run_train},
      {3, "validate", "Validation", {"validation", "parity", "data"}, Skip::kWhenDone, run_validate},
      {4, "merge", "Merging the adapter", {"merge", "parity"}, Skip::kWhenDone, run_merge},
      {5,
       "convert",
       "GGUF conversion and Ollama",
       {"gguf", "ollama", "parity"},
       Skip::kWhenDone,
       run_convert},
      {6, "deploy", "Deployment", {"server", "loadtest"}, Skip::kNever, run_deploy},
  };
  return all;
}

const Stage& find_stage(const std::string& name) {
  std::string names;
  for (const Stage& stage : stages()) {
    if (stage.name == name) return stage;
    names += (names.empty() ? "" : ", ") + stage.name;
  }
  throw UsageError(text("unknown stage '{}': the stages are {}", name, names));
}

std::vector<StageSummary> run_stages(StageContext& context, const RunRange& range) {
  const auto config = nlohmann::ordered_json::parse(to_json(context.config));
  context.manifest.set("config", config);
  std::vector<StageSummary> summaries;
  std::string before;
  for (const Stage& stage : stages()) {
    // Check depends on the machine, not on inputs; it has no part in what later stages make.
    const std::string mine = fingerprint(stage, config, stage.number == 0 ? "" : before);
    if (stage.number > 0) before = mine;
    if (stage.number < range.from || stage.number > range.to) continue;
    StageSummary summary{stage.name, false, 0, ""};
    context.reporter.stage_begins(stage.number, stage.name, text(stage.title.c_str()));
    if (stage.skip == Stage::Skip::kWhenDone && range.done == RunRange::Done::kSkip &&
        context.manifest.is_done(stage.name, mine)) {
      summary.skipped = true;
      summary.summary = context.manifest.results(stage.name).value("summary", "");
      context.reporter.stage_ends(stage.name, -1);
      summaries.push_back(summary);
      continue;
    }
    reset_peak_memory();
    const Stopwatch watch;
    try {
      StageOutcome outcome = stage.run(context);
      summary.seconds = watch.seconds();
      summary.summary = outcome.summary;
      outcome.results["summary"] = outcome.summary;
      context.manifest.finish(
          {stage.name, mine, summary.seconds, peak_memory_bytes(), outcome.outputs, outcome.results});
    } catch (const Error& error) {
      context.reporter.progress_ends();
      context.manifest.fail(stage.name, error.what());
      throw;
    }
    context.reporter.stage_ends(stage.name, summary.seconds);
    summaries.push_back(summary);
  }
  return summaries;
}

nlohmann::ordered_json require_results(const StageContext& context, const std::string& stage) {
  auto results = context.manifest.results(stage);
  if (results.is_null())
    throw InputError(text("this stage needs what `onggi {}` leaves in {}: run that first, or `onggi run`",
                          stage, context.manifest.path().parent_path().string()));
  return results;
}

}  // namespace onggi

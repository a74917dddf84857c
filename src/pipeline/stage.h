// The stages and their order.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/threads.h"
#include "config/config.h"
#include "device/machine.h"
#include "model/compute_device.h"
#include "pipeline/manifest.h"
#include "pipeline/reporter.h"

namespace onggi {

// What every stage is given.
struct StageContext {
  const Config& config;
  const Machine& machine;
  Manifest& manifest;
  Reporter& reporter;
  ThreadPool& threads;
  ComputeDevice& device;  // that the configuration asks for; opened by the command

  // Bytes that this process may use of the device's memory: memory_budget, or what is free now.
  uint64_t memory_budget() const;
};

struct StageOutcome {
  nlohmann::ordered_json results;
  std::vector<fs::path> outputs;
  std::string summary;  // one line for the closing table
};

struct Stage {
  int number;
  std::string name;   // "train"
  std::string title;  // for people, translated when shown
  // The keys of the configuration that the stage's outputs depend on, besides the outputs of earlier stages;
  // a section by its name.
  std::vector<std::string> config_keys;
  enum class Skip { kWhenDone, kNever } skip;
  StageOutcome (*run)(StageContext&);
};

// check, setup, train, validate, merge, convert, deploy.
const std::vector<Stage>& stages();
// By name; throws UsageError that lists the names.
const Stage& find_stage(const std::string& name);

struct StageSummary {
  std::string name;
  bool skipped = false;
  double seconds = 0;
  std::string summary;
};

// Runs the stages from..to in order, skipping those that are done with the same inputs; those named `force`
// and later run again in any case. A failure is recorded in the manifest and rethrown.
struct RunRange {
  int from = 0;
  int to = 6;
  enum class Done { kSkip, kRunAgain } done = Done::kSkip;
};
std::vector<StageSummary> run_stages(StageContext& context, const RunRange& range);

// A stage needs what an earlier one left; throws InputError that names the command where it is missing.
nlohmann::ordered_json require_results(const StageContext& context, const std::string& stage);

StageOutcome run_check(StageContext& context);
StageOutcome run_setup(StageContext& context);
StageOutcome run_train(StageContext& context);
StageOutcome run_validate(StageContext& context);
StageOutcome run_merge(StageContext& context);
StageOutcome run_convert(StageContext& context);
StageOutcome run_deploy(StageContext& context);

}  // namespace onggi

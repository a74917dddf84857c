#include "pipeline/check.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "hub/hub.h"
#include "pipeline/session.h"

namespace onggi {

namespace {

constexpr uint64_t kGB = 1'000'000'000;

Verdict judge(uint64_t has, uint64_t recommended, uint64_t minimum) {
  if (has >= recommended) return Verdict::kGood;
  return has >= minimum ? Verdict::kMinimum : Verdict::kShort;
}

Verdict judge(uint64_t has, const Requirement& requirement) {
  return judge(has, static_cast<uint64_t>(requirement.recommended) * kGB,
               static_cast<uint64_t>(requirement.minimum) * kGB);
}

uint64_t largest_gpu_memory(const Machine& machine) {
  uint64_t largest = 0;
  for (const GpuDescription& gpu : machine.gpu.gpus) largest = std::max(largest, gpu.memory_total);
  return largest;
}

Verdict judge_vram(const Machine& machine, const Requirement& requirement) {
  return machine.gpu.gpus.empty() ? Verdict::kAbsent : judge(largest_gpu_memory(machine), requirement);
}

uint64_t device_memory(const Config& config, const Machine& machine, const Device& device) {
  if (config.memory_budget) return config.memory_budget->bytes;
  if (device.kind == DeviceKind::kCpu) return machine.memory.available;
  const GpuDescription& gpu = machine.gpu.gpus[static_cast<size_t>(device.index)];
  return gpu.memory_free > 0 ? gpu.memory_free : gpu.memory_total;
}

// Each stage against memory, and against the disk that the stages before it have filled already.
std::vector<StageVerdict> judge_stages(const std::vector<StageNeed>& needs, const CheckReport& report) {
  std::vector<StageVerdict> stages;
  uint64_t written = 0;
  for (const StageNeed& need : needs) {
    StageVerdict stage{need};
    stage.memory = judge(report.memory_available, need.memory_full, need.memory_minimum);
    if (need.stage == "setup") {
      stage.disk = judge(report.cache_disk_free, need.disk, need.disk);
      // The cache is often on the same disk as the results.
      if (report.cache_disk_free == report.output_disk_free) written += need.disk;
    } else {
      written += need.disk;
      stage.disk = need.disk == 0 ? Verdict::kGood : judge(report.output_disk_free, written, written);
    }
    stages.push_back(std::move(stage));
  }
  return stages;
}

struct PlannedModel {
  std::string name;
  std::string origin;
  ModelConfig model;
  bool is_local = false;
};

// How the device that was chosen keeps activations.
ActivationFormat training_format(const Config& config, const Device& device) {
  const OpTable& ops = device.kind == DeviceKind::kCuda ? cuda_ops() : cpu_ops();
  return ActivationFormat::of(ops, device.kind, training_precision(config), config.lora.r);
}

ModelPlan plan_model(const Config& config, const PlannedModel& planned, const CheckReport& report) {
  const EstimateInputs inputs{config, planned.model,
                              static_cast<int>(config.threads.value_or(report.machine.cpu.usable_cpus)),
                              training_format(config, report.device.device), planned.is_local};
  return {planned.name, planned.origin, measure_model(planned.model, config),
          judge_stages(estimate_stages(inputs), report),
          plan_training_within(inputs, report.memory_available)};
}

SeedRow seed_row(const Config& config, const ModelRequirements& requirements, const CheckReport& report) {
  SeedRow row;
  row.requirements = requirements;
  row.training_vram = judge_vram(report.machine, requirements.training_vram);
  row.training_ram = judge(report.machine.memory.total, requirements.training_ram);
  row.merge_ram = judge(report.machine.memory.total, requirements.merge_ram);
  row.merge_vram = judge_vram(report.machine, requirements.merge_vram);
  row.disk = judge(report.output_disk_free, requirements.disk);
  const std::string name(requirements.model);
  row.plan = plan_model(config, {name, text("published dimensions"), published_config(name), false}, report);
  return row;
}

// The configured model: from its config.json where it is on this machine, else from the published dimensions.
void plan_configured(const Config& config, CheckReport& report) {
  try {
    const auto local = find_local_model(config.model_name, config.hub.revision, report.cache_folder);
    if (local) {
      report.plan = plan_model(
          config, {config.model_name, local->folder.string(), read_hf_config(local->folder), true}, report);
    } else {
      report.plan = plan_model(
          config,
          {config.model_name, text("published dimensions"), published_config(config.model_name), false},
          report);
    }
  } catch (const UsageError&) {
    report.plan_problem =
        text("the size of {} is not known before it is downloaded: run onggi setup, then check again",
             config.model_name);
  } catch (const InputError& problem) {
    report.plan_problem = problem.what();
  }
}

}  // namespace

std::string verdict_text(Verdict verdict) {
  switch (verdict) {
    case Verdict::kGood:
      return text("ok");
    case Verdict::kMinimum:
      return text("minimum");
    case Verdict::kShort:
      return text("too little");
    case Verdict::kAbsent:
      return text("none");
  }
  return "";
}

std::string_view verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kGood:
      return "ok";
    case Verdict::kMinimum:
      return "minimum";
    case Verdict::kShort:
      return "short";
    case Verdict::kAbsent:
      return "absent";
  }
  return "";
}

const std::vector<ModelRequirements>& seed_requirements() {
  static const std::vector<ModelRequirements> table{
      // model       training VRAM  training RAM  merge RAM  merge VRAM  disk
      {"Qwen3-4B", {8, 6}, {16, 12}, {16, 12}, {8, 6}, {25, 25}},
      {"Qwen3-8B", {16, 12}, {24, 16}, {32, 24}, {16, 12}, {50, 50}},
      {"Qwen3-14B", {24, 18}, {32, 24}, {48, 32}, {24, 18}, {80, 80}},
      {"Qwen3-32B", {48, 32}, {64, 48}, {96, 64}, {48, 32}, {200, 200}},
  };
  return table;
}

bool CheckReport::falls_short() const {
  return plan && std::any_of(plan->stages.begin(), plan->stages.end(),
                             [](const StageVerdict& stage) { return stage.overall() == Verdict::kShort; });
}

CheckReport make_check_report(const Config& config, const CheckInputs& inputs) {
  CheckReport report;
  report.machine = inputs.machine;
  report.device = select_device(name_of(config.device), inputs.machine);
  report.output_folder = config.output_dir;
  report.cache_folder = inputs.cache_folder.string();
  report.output_disk_free = inputs.output_disk_free;
  report.cache_disk_free = inputs.cache_disk_free;
  report.swap = judge(inputs.machine.memory.swap_total, kRecommendedSwap, 0);
  if (!inputs.machine.gpu.gpus.empty()) {
    const bool new_enough = inputs.machine.gpu.cuda_version >= kMinimumCudaVersion;
    report.cuda = new_enough ? Verdict::kGood : Verdict::kShort;
  }
  report.memory_available = device_memory(config, inputs.machine, report.device.device);
  for (const ModelRequirements& row : seed_requirements()) {
    report.seed_rows.push_back(seed_row(config, row, report));
  }
  plan_configured(config, report);
  return report;
}

CheckReport check_machine(const Config& config) {
  const HubOptions hub = hub_options_from_environment(config.hub.endpoint, config.hub.cache_dir);
  CheckInputs inputs;
  inputs.machine = describe_machine();
  inputs.cache_folder = hub.cache_dir;
  inputs.output_disk_free = free_disk_bytes(config.output_dir);
  inputs.cache_disk_free = free_disk_bytes(hub.cache_dir);
  return make_check_report(config, inputs);
}

}  // namespace onggi

// The report of stage 0 as text for people and as JSON.
#include <nlohmann/json.hpp>

#include "base/human.h"
#include "base/text.h"
#include "pipeline/check.h"
#include "pipeline/text_table.h"

namespace onggi {

namespace {

using nlohmann::ordered_json;
using Rows = std::vector<std::vector<std::string>>;

std::string gigabytes(uint64_t bytes) {
  const double gb = static_cast<double>(bytes) / 1e9;
  return gb < 10 ? fmt::format("{:.1f} GB", gb) : fmt::format("{:.0f} GB", gb);
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

std::string cuda_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

std::string stage_title(const std::string& stage) {
  if (stage == "setup") return text("1 setup");
  if (stage == "train") return text("2 train");
  if (stage == "validate") return text("3 validate");
  if (stage == "merge") return text("4 merge");
  if (stage == "convert") return text("5 convert");
  return text("6 deploy");
}

std::string swap_text(const CheckReport& report) {
  const std::string there = gigabytes(report.machine.memory.swap_total);
  if (report.swap == Verdict::kGood) return there;
  return text("{}; {} is recommended, so that a peak slows the machine down instead of ending the run", there,
              gigabytes(kRecommendedSwap));
}

Rows machine_rows(const CheckReport& report) {
  const Machine& machine = report.machine;
  Rows rows;
  rows.push_back(
      {text("CPU"), text("{}, {} usable of {}", machine.cpu.model.empty() ? "-" : machine.cpu.model,
                         machine.cpu.usable_cpus, machine.cpu.logical_cpus)});
  rows.push_back({"", machine.cpu.instruction_sets.empty() ? text("no vector instructions that Onggi uses")
                                                           : joined(machine.cpu.instruction_sets)});
  rows.push_back({text("memory"), text("{}, {} available", gigabytes(machine.memory.total),
                                       gigabytes(machine.memory.available))});
  rows.push_back({text("swap"), swap_text(report)});
  rows.push_back(
      {text("disk"), text("{} free in {}", gigabytes(report.output_disk_free), report.output_folder)});
  rows.push_back({"", text("{} free in {}", gigabytes(report.cache_disk_free), report.cache_folder)});
  for (const GpuDescription& gpu : machine.gpu.gpus) {
    rows.push_back({text("GPU"), text("{}, {}, {} free, compute capability {}.{}", gpu.name,
                                      gigabytes(gpu.memory_total), gigabytes(gpu.memory_free),
                                      gpu.compute_capability / 10, gpu.compute_capability % 10)});
  }
  if (machine.gpu.gpus.empty()) {
    rows.push_back({text("GPU"), text("none: {}", machine.gpu.problem)});
  } else {
    rows.push_back({text("driver"), text("{}, CUDA {} ({} or newer is needed): {}",
                                         machine.gpu.driver_version, cuda_text(machine.gpu.cuda_version),
                                         cuda_text(kMinimumCudaVersion), verdict_text(report.cuda))});
  }
  rows.push_back({text("device"), report.device.reason});
  return rows;
}

std::string requirement_text(const Requirement& requirement, Verdict verdict) {
  const std::string numbers = requirement.recommended == requirement.minimum
                                  ? fmt::format("{}", requirement.recommended)
                                  : fmt::format("{} ({})", requirement.recommended, requirement.minimum);
  return numbers + " " + verdict_text(verdict);
}

Rows seed_table(const CheckReport& report) {
  Rows rows{{text("model"), text("training VRAM"), text("training RAM"), text("merge RAM"),
             text("merge VRAM"), text("disk")}};
  for (const SeedRow& row : report.seed_rows) {
    const ModelRequirements& r = row.requirements;
    rows.push_back({std::string(r.model), requirement_text(r.training_vram, row.training_vram),
                    requirement_text(r.training_ram, row.training_ram),
                    requirement_text(r.merge_ram, row.merge_ram),
                    requirement_text(r.merge_vram, row.merge_vram), requirement_text(r.disk, row.disk)});
  }
  return rows;
}

Rows verdict_table(const CheckReport& report) {
  Rows rows{{text("model")}};
  for (const StageVerdict& stage : report.seed_rows.front().plan.stages) {
    rows.front().push_back(stage_title(stage.need.stage));
  }
  for (const SeedRow& row : report.seed_rows) {
    rows.push_back({row.plan.model});
    for (const StageVerdict& stage : row.plan.stages) rows.back().push_back(verdict_text(stage.overall()));
  }
  return rows;
}

Rows plan_table(const ModelPlan& plan) {
  Rows rows{
      {text("stage"), text("memory needed"), text("memory at full speed"), text("disk"), text("verdict")}};
  for (const StageVerdict& stage : plan.stages) {
    rows.push_back({stage_title(stage.need.stage), gigabytes(stage.need.memory_minimum),
                    gigabytes(stage.need.memory_full), gigabytes(stage.need.disk),
                    verdict_text(stage.overall())});
  }
  return rows;
}

ordered_json machine_json(const CheckReport& report) {
  const Machine& machine = report.machine;
  ordered_json gpus = ordered_json::array();
  for (const GpuDescription& gpu : machine.gpu.gpus) {
    gpus.push_back({{"name", gpu.name},
                    {"memory_total", gpu.memory_total},
                    {"memory_free", gpu.memory_free},
                    {"compute_capability", gpu.compute_capability / 10.0}});
  }
  return {{"cpu",
           {{"model", machine.cpu.model},
            {"physical_cores", machine.cpu.physical_cores},
            {"logical_cpus", machine.cpu.logical_cpus},
            {"usable_cpus", machine.cpu.usable_cpus},
            {"instruction_sets", machine.cpu.instruction_sets}}},
          {"memory", {{"total", machine.memory.total}, {"available", machine.memory.available}}},
          {"swap",
           {{"total", machine.memory.swap_total},
            {"free", machine.memory.swap_free},
            {"recommended", kRecommendedSwap},
            {"verdict", verdict_name(report.swap)}}},
          {"disk",
           {{"output_folder", report.output_folder},
            {"output_free", report.output_disk_free},
            {"cache_folder", report.cache_folder},
            {"cache_free", report.cache_disk_free}}},
          {"gpus", gpus},
          {"gpu_problem", machine.gpu.problem},
          {"driver", machine.gpu.driver_version},
          {"cuda",
           {{"version", machine.gpu.cuda_version == 0 ? "" : cuda_text(machine.gpu.cuda_version)},
            {"needed", cuda_text(kMinimumCudaVersion)},
            {"verdict", verdict_name(report.cuda)}}}};
}

ordered_json plan_json(const ModelPlan& plan) {
  ordered_json stages = ordered_json::array();
  for (const StageVerdict& stage : plan.stages) {
    stages.push_back({{"stage", stage.need.stage},
                      {"memory_minimum", stage.need.memory_minimum},
                      {"memory_full", stage.need.memory_full},
                      {"disk", stage.need.disk},
                      {"memory_verdict", verdict_name(stage.memory)},
                      {"disk_verdict", verdict_name(stage.disk)},
                      {"verdict", verdict_name(stage.overall())}});
  }
  ordered_json training(nullptr);
  if (plan.training)
    training = {{"bytes", plan.training->total_bytes},
                {"tokens_per_pass", plan.training->tokens_per_pass},
                {"blocks_recomputed", plan.training->policy == ActivationPolicy::kRecomputeBlocks},
                {"offloaded_layers", plan.training->offloaded_layers},
                {"host_bytes", plan.training->on_host.bytes}};
  return {{"model", plan.model},
          {"origin", plan.origin},
          {"parameters", plan.size.parameters},
          {"lora_parameters", plan.size.lora_parameters},
          {"bytes_16bit", plan.size.bytes_16bit},
          {"bytes_training", plan.size.bytes_training},
          {"stages", stages},
          {"training", training}};
}

ordered_json seed_json(const SeedRow& row) {
  const auto entry = [](const Requirement& requirement, Verdict verdict) {
    return ordered_json{{"recommended_gb", requirement.recommended},
                        {"minimum_gb", requirement.minimum},
                        {"verdict", verdict_name(verdict)}};
  };
  const ModelRequirements& r = row.requirements;
  return {{"model", r.model},
          {"training_vram", entry(r.training_vram, row.training_vram)},
          {"training_ram", entry(r.training_ram, row.training_ram)},
          {"merge_ram", entry(r.merge_ram, row.merge_ram)},
          {"merge_vram", entry(r.merge_vram, row.merge_vram)},
          {"disk", entry(r.disk, row.disk)},
          {"plan", plan_json(row.plan)}};
}

}  // namespace

std::string CheckReport::to_text() const {
  std::string out = text("This machine") + "\n" + align_rows(machine_rows(*this), 2);
  out += "\n" +
         text("What the guide asks for, in GB: recommended (minimum), and what this machine has of it") +
         "\n" + align_rows(seed_table(*this), 2);
  out += "\n" + text("What Onggi needs for the same models here, stage by stage") + "\n" +
         align_rows(verdict_table(*this), 2);
  if (!plan) return out + "\n" + plan_problem + "\n";
  out += "\n" +
         text("The plan for {} ({} parameters, {})", plan->model,
              count_text(static_cast<double>(plan->size.parameters)), plan->origin) +
         "\n" + align_rows(plan_table(*plan), 2);
  if (plan->training) out += "\n" + text("Training here: {}", plan->training->strategy_text()) + "\n";
  return out;
}

std::string CheckReport::to_json() const {
  ordered_json out;
  out["machine"] = machine_json(*this);
  out["device"] = {{"kind", device.device.kind == DeviceKind::kCpu ? "cpu" : "cuda"},
                   {"name", device.device.name},
                   {"reason", device.reason},
                   {"memory_available", memory_available}};
  out["models"] = ordered_json::array();
  for (const SeedRow& row : seed_rows) out["models"].push_back(seed_json(row));
  out["plan"] = plan ? plan_json(*plan) : ordered_json(nullptr);
  if (!plan) out["plan_problem"] = plan_problem;
  out["enough"] = plan ? ordered_json(!falls_short()) : ordered_json(nullptr);
  return out.dump(2);
}

}  // namespace onggi

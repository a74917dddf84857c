// Stage 0: what this machine has, what the seed's table asks for, and what the configured model will need.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "config/config.h"
#include "device/device.h"
#include "pipeline/memory_estimate.h"

namespace onggi {

enum class Verdict {
  kGood,     // as recommended
  kMinimum,  // runs, below the recommendation
  kShort,    // below the minimum
  kAbsent,   // there is no such device
};
// "ok", "minimum", "too little", "none", translated; and the untranslated word for JSON.
std::string verdict_text(Verdict verdict);
std::string_view verdict_name(Verdict verdict);

// Gigabytes (10^9) as the seed's table has them: "recommended (minimum)".
struct Requirement {
  int recommended = 0;
  int minimum = 0;
};
struct ModelRequirements {
  std::string_view model;  // "Qwen3-8B"
  Requirement training_vram, training_ram, merge_ram, merge_vram;
  Requirement disk;
};
// The seed's table for Qwen3 4B, 8B, 14B and 32B.
const std::vector<ModelRequirements>& seed_requirements();

inline constexpr uint64_t kRecommendedSwap = 16'000'000'000;  // bytes

struct StageVerdict {
  StageNeed need;
  Verdict memory = Verdict::kGood;  // of the device that computes
  Verdict disk = Verdict::kGood;
  Verdict overall() const {
    return memory == Verdict::kGood ? disk : disk == Verdict::kShort ? disk : memory;
  }
};

// The stages of one model on this machine.
struct ModelPlan {
  std::string model;
  std::string origin;  // for people: where its dimensions are from
  ModelSize size;
  std::vector<StageVerdict> stages;
  std::optional<TrainingPlan> training;  // within the memory that there is
};

struct SeedRow {
  ModelRequirements requirements;
  Verdict training_vram, training_ram, merge_ram, merge_vram, disk;
  ModelPlan plan;  // what Onggi itself needs for it
};

struct CheckReport {
  Machine machine;
  DeviceSelection device;
  std::string output_folder, cache_folder;
  uint64_t output_disk_free = 0, cache_disk_free = 0;  // bytes
  Verdict swap = Verdict::kGood;
  Verdict cuda = Verdict::kAbsent;
  uint64_t memory_available = 0;  // of the device that computes, or the configured budget
  std::vector<SeedRow> seed_rows;
  std::optional<ModelPlan> plan;  // of the configured model; none where its size is not known yet
  std::string plan_problem;       // then: why

  // Whether a stage of the configured model falls short. Where its size is not known yet, none is known to.
  bool falls_short() const;
  std::string to_text() const;
  std::string to_json() const;
};

// What the report is made from; check_machine() asks the machine, tests make one up.
struct CheckInputs {
  Machine machine;
  fs::path cache_folder;
  uint64_t output_disk_free = 0, cache_disk_free = 0;
};
CheckReport make_check_report(const Config& config, const CheckInputs& inputs);
// Throws MachineError where the configuration asks for a device that is not there.
CheckReport check_machine(const Config& config);

}  // namespace onggi

// What each stage will need of memory and disk, computed from the model's dimensions before anything is read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "train/memory_plan.h"

namespace onggi {

// Element counts and bytes of a model with the configuration's adapter.
struct ModelSize {
  uint64_t parameters = 0;
  uint64_t bytes_16bit = 0;
  uint64_t bytes_training = 0;  // the base as training holds it: NF4 projections, or all in 16 bits
  uint64_t lora_parameters = 0;
};
ModelSize measure_model(const ModelConfig& model, const Config& config);

// Bytes. A stage runs with `memory_minimum` and is not slowed by memory with `memory_full`; the difference is
// what it can recompute, or read again from mapped files.
struct StageNeed {
  std::string stage;  // "setup" ... "deploy"
  uint64_t memory_minimum = 0;
  uint64_t memory_full = 0;
  uint64_t disk = 0;  // that the stage writes
};

struct EstimateInputs {
  const Config& config;
  const ModelConfig& model;
  int threads = 1;
  ActivationFormat format = {};  // of the device that trains
  bool is_local = false;         // nothing to download
};
// The stages that use memory or disk, in their order: setup, train, validate, merge, convert, deploy.
std::vector<StageNeed> estimate_stages(const EstimateInputs& inputs);

// How samples of cutoff_len tokens would be trained within so many bytes of the device's memory; none: not at
// all.
std::optional<TrainingPlan> plan_training_within(const EstimateInputs& inputs, uint64_t memory);

}  // namespace onggi

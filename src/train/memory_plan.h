// The memory of a training run, computed before it starts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"
#include "model/training.h"

namespace onggi {

struct MemoryItem {
  std::string name;  // for people, translated
  uint64_t bytes = 0;
};

struct TrainingPlan {
  ActivationPolicy policy = ActivationPolicy::kKeepAll;
  int64_t tokens_per_pass = 0;  // the longest packed pass
  std::vector<MemoryItem> items;
  uint64_t total_bytes = 0;

  std::string to_text() const;  // a line per item and the total
};

struct TrainingNeeds {
  const ModelConfig& model;
  TrainingFormat format = {};    // of the device
  uint64_t weight_bytes = 0;     // of the loaded base
  uint64_t lora_parameters = 0;  // elements
  int64_t rank = 0;
  int64_t longest_sample = 0;    // tokens, of training and validation samples
  int64_t samples_per_step = 0;  // batch size times accumulation
  uint64_t budget_bytes = 0;     // what may be used
  int threads = 1;
};

// The memory of passes of at most `tokens` tokens under a policy.
TrainingPlan plan_for(const TrainingNeeds& needs, int64_t tokens, ActivationPolicy policy);

// The fastest strategy that fits: how many samples of a step share a pass (with packing; on the CPU at most
// max_seq_length tokens), and whether activations are kept or blocks recomputed. Throws MachineError with the
// settings that would fit.
TrainingPlan plan_training(const Config& config, const TrainingNeeds& needs);

}  // namespace onggi

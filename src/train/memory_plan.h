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
  int64_t tokens_per_pass = 0;   // the longest packed pass
  int64_t layers = 0;            // of the model
  int64_t offloaded_layers = 0;  // of them: Placement::offloaded_layers of the model that it is for
  std::vector<MemoryItem> items;
  uint64_t total_bytes = 0;
  MemoryItem on_host;  // page-locked, besides total_bytes; no bytes where nothing is offloaded

  std::string to_text() const;  // a line per item and the total
  // "blocks recomputed, passes of at most 512 tokens, 12 of 36 layers offloaded", translated
  std::string strategy_text() const;
};

struct TrainingNeeds {
  const ModelConfig& model;
  ActivationFormat format = {};  // of the device
  WeightMemory weights = {};     // of the base
  uint64_t lora_parameters = 0;  // elements
  int64_t rank = 0;
  int64_t longest_sample = 0;    // tokens, of training and validation samples
  int64_t samples_per_step = 0;  // batch size times accumulation
  uint64_t budget_bytes = 0;     // what may be used
  int threads = 1;
};

// How passes are run. Policy and offloading change no bit of what a pass computes.
struct TrainingStrategy {
  int64_t tokens = 0;  // the most of a pass
  ActivationPolicy policy = ActivationPolicy::kKeepAll;
  int64_t offloaded_layers = 0;
};

// The memory of passes run so.
TrainingPlan plan_for(const TrainingNeeds& needs, const TrainingStrategy& strategy);

// The fastest strategy that fits: how many samples of a step share a pass (with packing; on the CPU at most
// max_seq_length tokens), whether activations are kept or blocks recomputed, and on a GPU whether layers are
// offloaded, as few as suffice, to make room for it. Throws MachineError with the settings that would fit.
TrainingPlan plan_training(const Config& config, const TrainingNeeds& needs);
// The one that needs the least memory.
TrainingPlan smallest_plan(const Config& config, const TrainingNeeds& needs);

}  // namespace onggi

// Checkpoints: everything that the rest of a run depends on, so that k steps and a resume are all steps, bit
// for bit.
//
//   checkpoint-<step>/adapter_model.safetensors, adapter_config.json   the adapter, in PEFT's layout
//   checkpoint-<step>/optimizer.safetensors                            "first_moment", "second_moment": f32,
//   flat checkpoint-<step>/trainer_state.json                               step, data cursor, fingerprint,
//   best loss
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "data/packing.h"
#include "model/lora.h"

namespace onggi {

struct TrainerState {
  int64_t step = 0;         // optimiser steps done
  DataCursor cursor;        // of the training samples
  std::string fingerprint;  // of all that determines the run: configuration, data, base model
  double first_loss = 0, last_loss = 0;
  double best_evaluation_loss = 0;
  int64_t best_step = 0;  // 0: no evaluation yet
  int64_t evaluations_without_gain = 0;
  std::vector<float> first_moment, second_moment;  // AdamW, the layout of LoraParameters::values
};

// Writes the folder under a temporary name and renames it: a checkpoint is whole or absent.
void save_checkpoint(const fs::path& folder, const LoraParameters& parameters, const ModelConfig& config,
                     const AdapterInfo& info, const TrainerState& state);

// Reads a checkpoint back; `parameters` receives the adapter. Throws InputError where files are missing or
// differ in shape.
TrainerState load_checkpoint(const fs::path& folder, const ModelConfig& config, LoraParameters& parameters);

// The newest whole checkpoint below a folder whose fingerprint is this one; nullopt where there is none.
std::optional<fs::path> find_checkpoint(const fs::path& folder, const std::string& fingerprint);

// All checkpoint folders below a folder by step, ascending.
std::vector<std::pair<int64_t, fs::path>> list_checkpoints(const fs::path& folder);

}  // namespace onggi

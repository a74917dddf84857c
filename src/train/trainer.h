// Stage 2: the training loop.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/config.h"
#include "data/samples.h"
#include "model/training.h"
#include "train/checkpoint.h"
#include "train/memory_plan.h"

namespace onggi {

// One line of training_log.jsonl.
struct StepRecord {
  int64_t step = 0;          // counted from 1
  double loss = 0;           // mean cross-entropy of the step's label tokens, before its update
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  int64_t label_tokens = 0;
  int64_t tokens = 0;  // all tokens of the step
  double seconds = 0;
  double epoch = 0;
  std::optional<double> evaluation_loss;  // of the validation samples, where this step was evaluated
};

struct TrainResult {
  int64_t steps = 0;
  double first_loss = 0, final_loss = 0;
  double tokens_per_second = 0;  // of this process's steps
  double seconds = 0;
  int64_t resumed_from = 0;  // step of the checkpoint that the run went on from; 0: from the start
  bool stopped_early = false;
  int64_t best_step = 0;
  double best_evaluation_loss = 0;
};

struct TrainData {
  std::span<const Sample> train;
  std::span<const Sample> validation;  // may be empty
  std::string fingerprint;             // of data set, template and base model (hashes)
};

// The plan of a run, made before its model is loaded: with plan.offloaded_layers, for train(). `weights` are
// the base's (measure_weights()). Throws as plan_training().
TrainingPlan plan_run(const Config& config, const ModelConfig& model, const WeightMemory& weights,
                      const TrainData& data, const Compute& compute, uint64_t budget_bytes);

// Adds an adapter to the model according to the configuration, or goes on from the newest checkpoint of the
// same run in `folder`, trains to max_steps and leaves the model with the trained adapter. Writes checkpoints
// and training_log.jsonl to `folder`, and at the end adapter_model.safetensors and adapter_config.json.
// Throws WorkError on the first non-finite loss or gradient (naming step and lines of the data set; the last
// checkpoint stays), Interrupted after a stop request (a checkpoint was written).
TrainResult train(const Config& config, Model& model, const TrainData& data, const Compute& compute,
                  const fs::path& folder, const TrainingPlan& plan,
                  const std::function<void(const StepRecord&)>& on_step);

}  // namespace onggi

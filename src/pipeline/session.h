// What several stages do alike: load the configured model, its data, its compute.
#pragma once

#include <string>
#include <vector>

#include "data/samples.h"
#include "infer/chat_model.h"
#include "model/compute_device.h"
#include "pipeline/stage.h"

namespace onggi {

// bfloat16 or float32, from quantization.bnb_4bit_compute_dtype.
Precision training_precision(const Config& config);
// NF4, or as stored when load_in_4bit is off.
LoadQuantization base_quantization(const Config& config);

// The training rows and the held-out rows of the configuration.
struct StageData {
  Dataset training;
  SampleSet training_samples;
  std::optional<Dataset> held_out;
  std::optional<SampleSet> held_out_samples;
};
// The training rows as every stage must read them: with the configured system prompt, think mode and layout.
Dataset load_training_data(const Config& config);
StageData load_stage_data(const Config& config, const Tokenizer& tokenizer, const ChatTemplate& chat);

// Conversations for parity gates: the first prompts of the training data.
std::vector<std::string> parity_prompts(const Config& config, const Dataset& training);

// What travels with every artefact: base, revision, hashes, think mode, recipe.
nlohmann::ordered_json provenance(const StageContext& context);
// The base folder that setup resolved.
fs::path base_folder(const StageContext& context);

// Puts a result of a parity gate into words and throws WorkError when it failed.
class ParityGate {
 public:
  explicit ParityGate(Reporter& reporter) : reporter_(reporter) {}
  void check(const struct ParityResult& result);

 private:
  Reporter& reporter_;
};

}  // namespace onggi

// Stage 4: base + adapter -> a 16-bit Hugging Face folder, streamed tensor by tensor.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/threads.h"

namespace onggi {

// What the adapter's product is added to.
enum class MergeBase {
  kOriginal16bit,
  kNf4Dequantized,  // the projections as QLoRA's training saw them: NF4 with double quantisation, back to
                    // bf16
};
std::string_view merge_base_name(MergeBase base);  // "original_16bit", "nf4_dequantized"

struct MergeProgress {
  std::string tensor;  // the one being written
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;
};

struct MergeOptions {
  fs::path base_folder;
  fs::path adapter_folder;
  fs::path output_folder;
  std::string model_name;  // the title of the model card; empty: the name of output_folder
  MergeBase base = MergeBase::kOriginal16bit;
  uint64_t max_shard_bytes = 5'000'000'000;
  // A JSON object (or nothing) for merge_info.json and the model card: "base_model", "base_revision",
  // "dataset_sha256", "recipe", "think_mode", "merge_base_reason", ...
  std::string provenance_json;
  // Called between row blocks; may throw (Interrupted) to stop, which leaves no usable output behind.
  std::function<void(const MergeProgress&)> progress;
};

// The change of one adapted weight W [N, K]: dW is what the written tensor differs by from the base tensor it
// was added to.
struct MergedModule {
  std::string module;          // "model.layers.0.self_attn.q_proj"
  double delta_norm = 0;       // ||scale B A||_F, before rounding
  double weight_norm = 0;      // ||W||_F
  double relative_change = 0;  // delta_norm / weight_norm
  double changed_share = 0;    // share of the weights whose 16-bit value differs from the base's
  double rounding_error = 0;   // ||written - (W + scale B A)||_F / ||scale B A||_F; 0 for an empty delta
};

struct MergeResult {
  std::vector<MergedModule> modules;
  std::vector<std::string> files;     // names in output_folder, in the order of writing
  std::vector<std::string> warnings;  // sentences for people: deltas that vanish in rounding
  uint64_t bytes = 0;                 // of tensor data
  uint64_t parameters = 0;
  double seconds = 0;
};

// W + scale B A in fp32, rounded once to the base tensor's dtype (fp32 tensors become bf16). Writes the
// shards, the tokenizer's files byte for byte, config.json, and last the index, README.md and
// merge_info.json. A folder that lacks merge_info.json is not complete. Throws InputError for a base or
// adapter that does not fit, MachineError for a full disk.
MergeResult merge_adapter(const MergeOptions& options, ThreadPool& threads);

}  // namespace onggi

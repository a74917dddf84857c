// Stage 5: a Hugging Face folder (merged, or a base with an adapter), or another GGUF file -> GGUF v3.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/threads.h"
#include "quantize/recipes.h"

namespace onggi {

// What the activations tell about the columns of the weights: per GGUF tensor name ("blk.0.attn_q.weight")
// the mean square of each input [K] that the weight meets.
using ImportanceMatrix = std::map<std::string, std::vector<float>>;

// Reads an importance matrix that llama.cpp's llama-imatrix wrote as GGUF ("<tensor>.in_sum2" and
// "<tensor>.counts"). Throws InputError.
ImportanceMatrix read_importance_matrix(const fs::path& file);

struct ConvertProgress {
  std::string tensor;  // the one being written
  uint64_t weights_done = 0;
  uint64_t weights_total = 0;
};

struct ConvertOptions {
  fs::path source;   // an HF folder, or a GGUF file of any types that Onggi reads
  fs::path adapter;  // a PEFT folder whose product is added to the weights in fp32; empty: none
  fs::path output;
  QuantRecipe recipe = QuantRecipe::kQ4_K_M;
  std::string name;  // general.name; empty: that of the source
  // Written as strings under "onggi.<key>": "base_model", "base_revision", "dataset_sha256", "think_mode",
  // ... "recipe", "version" and "chat_template_sha256" are added here.
  std::map<std::string, std::string> provenance;
  const ImportanceMatrix* importance = nullptr;
  // Called between blocks of rows; may throw (Interrupted) to stop, which leaves nothing behind.
  std::function<void(const ConvertProgress&)> progress;
};

struct ConvertResult {
  uint64_t file_bytes = 0;
  uint64_t weights = 0;
  std::map<DType, int64_t> tensors_by_dtype;
  double bits_per_weight = 0;
  // Root of (sum of squared differences / sum of squared weights) over all tensors that were quantised.
  double relative_error = 0;
  std::vector<std::string> warnings;  // sentences for people: tensors that got another type than the recipe's
  double seconds = 0;
};

// Streams tensor by tensor and row block by row block: the peak is a few megabytes beside the tokenizer. The
// arithmetic is W + scale B A in fp32, rounded once, to the target. Throws InputError for sources that do not
// fit together, MachineError when the disk is too small (before anything is written).
ConvertResult convert_to_gguf(const ConvertOptions& options, ThreadPool& threads);

}  // namespace onggi

// The train mode: forward and backward of a packed batch, written by hand per block; no autograd.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "model/model.h"

namespace onggi {

// A packed batch as the model sees it (data/packing.h makes them).
struct TrainingBatch {
  std::span<const int32_t> tokens;          // i32 [T]
  std::span<const int32_t> labels;          // i32 [T]: target of position t, -100 where there is none
  std::span<const int32_t> segment_starts;  // i32 [S + 1]
};

struct DropoutState {
  double probability = 0;
  uint64_t seed = 0;
  uint64_t pass = 0;  // distinguishes passes: the same (seed, pass) draws the same masks
};

enum class ActivationPolicy {
  kKeepAll,          // every activation that backward needs stays in memory
  kRecomputeBlocks,  // only each block's input stays; backward runs the block's forward again
};

// Working memory of one pass. Planned from the configuration, allocated once.
class TrainingMemory {
 public:
  // Room for passes of at most max_tokens tokens.
  TrainingMemory(const Model& model, int64_t max_tokens, ActivationPolicy policy);
  ~TrainingMemory();
  // What the constructor would allocate, in bytes.
  static uint64_t bytes(const ModelConfig& config, int64_t rank, int64_t max_tokens, ActivationPolicy policy);

  struct Arrays;
  Arrays& arrays() { return *arrays_; }
  int64_t max_tokens() const { return max_tokens_; }
  ActivationPolicy policy() const { return policy_; }

 private:
  int64_t max_tokens_;
  ActivationPolicy policy_;
  std::unique_ptr<Arrays> arrays_;
};

struct PassResult {
  double loss_sum = 0;       // sum of cross-entropy over the labels of the batch
  int64_t label_tokens = 0;  // their count
};

// Forward alone: the loss of a batch (validation). per_label, when not null, receives M losses.
PassResult loss_of_batch(const Model& model, const Compute& compute, const TrainingBatch& batch,
                         TrainingMemory& memory, float* per_label = nullptr);

// Forward and backward: adds loss_scale * d(loss sum)/d(parameter) to `gradient`, which has the layout of
// model.adapter->values. loss_scale is 1 / label tokens of the whole effective batch.
PassResult forward_backward(const Model& model, const Compute& compute, const TrainingBatch& batch,
                            const DropoutState& dropout, float loss_scale, TrainingMemory& memory,
                            std::span<float> gradient);

// Forward alone: all logits f32 [T, V] of a batch, for parity gates and golden tests. hidden, when not null,
// receives the activations after the block of that index, f32 [T, C].
struct HiddenProbe {
  int64_t after_block = 0;
  float* out = nullptr;
};
void logits_of_batch(const Model& model, const Compute& compute, const TrainingBatch& batch,
                     TrainingMemory& memory, float* logits, const HiddenProbe* hidden = nullptr);

}  // namespace onggi

// The train mode: forward and backward of a packed batch, written by hand per block; no autograd.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "model/model.h"
#include "model/recordings.h"
#include "model/streamed_layers.h"

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

// What the size of a pass's memory follows from.
struct TrainingShape {
  const ModelConfig& config;
  ActivationFormat format;
  int64_t rank = 0;    // R, of the adapter
  int64_t tokens = 0;  // T, the most of a pass
  ActivationPolicy policy = ActivationPolicy::kKeepAll;
};

// A pass, or half of it, that may be recorded: right for any tokens, segments, labels and masks.
struct TrainingPassKey {
  enum class Part { kForward, kBackward } part;
  int64_t tokens = 0;           // T
  bool is_one_segment = false;  // S = 1
  double dropout = 0;           // probability
  uint64_t seed = 0;            // of the masks
  const float* gradient = nullptr;
  auto operator<=>(const TrainingPassKey&) const = default;
};

// Working memory of passes on one device. Planned from the configuration, allocated once.
class TrainingMemory {
 public:
  // Room for passes over the model, which outlives it, of at most max_tokens tokens.
  TrainingMemory(const Model& model, const Compute& compute, int64_t max_tokens, ActivationPolicy policy);
  ~TrainingMemory();
  // What the constructor would allocate, in bytes, besides the buffers for offloaded layers.
  static uint64_t bytes(const TrainingShape& shape);

  struct Arrays;
  Arrays& arrays() { return *arrays_; }
  StreamedLayers& layers() { return layers_; }
  // Of passes of at most so many tokens. A longer pass than before drops them: it lets working memory of
  // kernels grow, and recordings would hold on to the smaller one.
  Recordings<TrainingPassKey>& recordings(int64_t tokens);
  int64_t recording_count() const { return recordings_.count(); }
  int64_t max_tokens() const { return max_tokens_; }
  ActivationPolicy policy() const { return policy_; }
  // The sum of the losses of all passes since the last call. Waits for the device: once per step.
  double take_loss_sum();

 private:
  int64_t max_tokens_;
  ActivationPolicy policy_;
  Stream& stream_;
  std::unique_ptr<Arrays> arrays_;
  StreamedLayers layers_;
  // A recording is worth as long as a few passes save, and a shape that came twice is likely to come again:
  // forward and backward of four shapes.
  Recordings<TrainingPassKey> recordings_{{.runs_before = 2, .most = 8}};
  int64_t longest_recorded_ = 0;  // tokens
};

// Labels of a batch.
int64_t count_labels(const TrainingBatch& batch);

// Forward alone: the sum of cross-entropy over the labels of a batch (validation). per_label, when not null,
// is a host array that receives M losses.
double loss_of_batch(const Model& model, const Compute& compute, const TrainingBatch& batch,
                     TrainingMemory& memory, float* per_label = nullptr);

// Forward and backward: adds loss_scale * d(loss sum)/d(parameter) to `gradient`, an array on the device in
// the layout of model.adapter->values, and the batch's loss to what memory.take_loss_sum() gives. loss_scale
// is 1 / label tokens of the whole effective batch. Queues the work and does not wait for it.
void forward_backward(const Model& model, const Compute& compute, const TrainingBatch& batch,
                      const DropoutState& dropout, float loss_scale, TrainingMemory& memory, float* gradient);

// Forward alone: all logits f32 [T, V] of a batch into a host array, for parity gates and golden tests.
// hidden, when not null, receives the activations after the block of that index, f32 [T, C].
struct HiddenProbe {
  int64_t after_block = 0;
  float* out = nullptr;  // host
};
void logits_of_batch(const Model& model, const Compute& compute, const TrainingBatch& batch,
                     TrainingMemory& memory, float* logits, const HiddenProbe* hidden = nullptr);

}  // namespace onggi

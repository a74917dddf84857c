#include "model/training_memory.h"

#include <algorithm>

#include "base/error.h"

namespace onggi {
namespace {

// Logits are computed for this many bytes of rows at a time; only rows with a label have any.
constexpr int64_t kLogitChunkBytes = int64_t{64} << 20;

// Hands out consecutive, 64-byte aligned pieces; with a null base it only counts.
class Carver {
 public:
  explicit Carver(float* base) : base_(base) {}
  float* take(int64_t elements) {
    float* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (elements + 15) / 16 * 16;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  float* base_;
  int64_t used_ = 0;
};

struct Plan {
  const ModelConfig& config;
  int64_t rank;
  int64_t tokens;
  ActivationPolicy policy;
};

void carve_block(Carver& carver, const Plan& plan, BlockActivations& block) {
  const ModelConfig& c = plan.config;
  const int64_t t = plan.tokens;
  block.inverse_rms_attention = carver.take(t);
  block.query = carver.take(t * c.q_size());
  block.key = carver.take(t * c.kv_size());
  block.value = carver.take(t * c.kv_size());
  block.inverse_rms_query = carver.take(t * c.num_heads);
  block.inverse_rms_key = carver.take(t * c.num_kv_heads);
  block.rotated_query = carver.take(t * c.q_size());
  block.rotated_key = carver.take(t * c.kv_size());
  block.attended = carver.take(t * c.q_size());
  block.log_sum_exp = carver.take(t * c.num_heads);
  block.middle = carver.take(t * c.hidden_size);
  block.inverse_rms_ffn = carver.take(t);
  block.gate = carver.take(t * c.intermediate_size);
  block.up = carver.take(t * c.intermediate_size);
  for (float*& u : block.lora_u) u = carver.take(t * plan.rank);
}

// Sets every pointer of `arrays` and returns the floats used.
int64_t carve(float* base, const Plan& plan, TrainingMemory::Arrays& arrays) {
  const ModelConfig& c = plan.config;
  const int64_t t = plan.tokens;
  Carver carver(base);
  arrays.block_inputs.clear();
  for (int64_t i = 0; i <= c.num_layers; ++i) arrays.block_inputs.push_back(carver.take(t * c.hidden_size));
  arrays.blocks.assign(
      plan.policy == ActivationPolicy::kKeepAll ? static_cast<size_t>(c.num_layers) : size_t{1}, {});
  for (BlockActivations& block : arrays.blocks) carve_block(carver, plan, block);

  const int64_t widest = std::max({c.hidden_size, c.q_size(), c.intermediate_size});
  arrays.normed = carver.take(t * c.hidden_size);
  arrays.activated = carver.take(t * c.intermediate_size);
  arrays.dropped = carver.take(t * widest);
  arrays.d_dropped = carver.take(t * widest);
  arrays.d_u = carver.take(t * plan.rank);
  arrays.d_x = carver.take(t * c.hidden_size);
  arrays.d_normed = carver.take(t * c.hidden_size);
  arrays.d_activated = carver.take(t * c.intermediate_size);
  arrays.d_attended = carver.take(t * c.q_size());
  arrays.d_query = carver.take(t * c.q_size());
  arrays.d_key = carver.take(t * c.kv_size());
  arrays.d_value = carver.take(t * c.kv_size());

  const int64_t bytes_per_row = c.vocab_size * static_cast<int64_t>(sizeof(float));
  arrays.logit_rows = std::clamp<int64_t>(kLogitChunkBytes / bytes_per_row, 1, t);
  arrays.head_input = carver.take(arrays.logit_rows * c.hidden_size);
  arrays.head_normed = carver.take(arrays.logit_rows * c.hidden_size);
  arrays.head_inverse = carver.take(arrays.logit_rows);
  arrays.logits = carver.take(arrays.logit_rows * c.vocab_size);
  arrays.d_head = carver.take(arrays.logit_rows * c.hidden_size);
  arrays.losses = carver.take(t);
  return carver.used();
}

}  // namespace

TrainingMemory::TrainingMemory(const Model& model, int64_t max_tokens, ActivationPolicy policy)
    : max_tokens_(max_tokens), policy_(policy), arrays_(std::make_unique<Arrays>()) {
  ONGGI_CHECK(max_tokens > 0);
  const Plan plan{model.config, model.adapter ? model.adapter->rank() : 0, max_tokens, policy};
  const int64_t floats = carve(nullptr, plan, *arrays_);
  constexpr int64_t kAlign = 16;  // floats
  arrays_->memory = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(floats + kAlign));
  const auto misaligned =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(arrays_->memory.get()) / sizeof(float)) % kAlign;
  carve(arrays_->memory.get() + (kAlign - misaligned) % kAlign, plan, *arrays_);
}

TrainingMemory::~TrainingMemory() = default;

uint64_t TrainingMemory::bytes(const ModelConfig& config, int64_t rank, int64_t max_tokens,
                               ActivationPolicy policy) {
  Arrays arrays;
  return static_cast<uint64_t>(carve(nullptr, {config, rank, max_tokens, policy}, arrays)) * sizeof(float);
}

}  // namespace onggi

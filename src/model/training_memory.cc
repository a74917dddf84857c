#include "model/training_memory.h"

#include <algorithm>

#include "base/error.h"

namespace onggi {
namespace {

// Logits are computed for some rows at a time; only rows with a label have any. The CPU takes as many as fit
// into this many bytes; a GPU needs more to be busy, in proportion to the pass.
constexpr int64_t kLogitChunkBytes = int64_t{64} << 20;
constexpr int64_t kMostLogitRowsOnGpu = 1024;

int64_t logit_rows_of(const TrainingShape& plan) {
  if (plan.format.device == DeviceKind::kCuda)
    return std::min(plan.tokens, std::clamp<int64_t>(plan.tokens / 4, 128, kMostLogitRowsOnGpu));
  const int64_t bytes_per_row = plan.config.vocab_size * static_cast<int64_t>(sizeof(float));
  return std::clamp<int64_t>(kLogitChunkBytes / bytes_per_row, 1, plan.tokens);
}

constexpr int64_t kAlign = 256;  // bytes

// Hands out consecutive, aligned pieces; with a null base it only counts.
class Carver {
 public:
  Carver(std::byte* base, DType dtype) : base_(base), dtype_(dtype) {}
  Activation take(int64_t elements) { return {bytes(dtype_bytes(dtype_, elements)), dtype_}; }
  template <typename T>
  T* take_of(int64_t elements) {
    return static_cast<T*>(bytes(elements * static_cast<int64_t>(sizeof(T))));
  }
  int64_t used() const { return used_; }

 private:
  void* bytes(int64_t count) {
    void* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (count + kAlign - 1) / kAlign * kAlign;
    return piece;
  }

  std::byte* base_;
  DType dtype_;
  int64_t used_ = 0;
};

void carve_block(Carver& carver, const TrainingShape& plan, BlockActivations& block) {
  const ModelConfig& c = plan.config;
  const int64_t t = plan.tokens;
  block.inverse_rms_attention = carver.take_of<float>(t);
  block.query = carver.take(t * c.q_size());
  block.key = carver.take(t * c.kv_size());
  block.value = carver.take(t * c.kv_size());
  block.inverse_rms_query = carver.take_of<float>(t * c.num_heads);
  block.inverse_rms_key = carver.take_of<float>(t * c.num_kv_heads);
  block.rotated_query = carver.take(t * c.q_size());
  block.rotated_key = carver.take(t * c.kv_size());
  block.attended = carver.take(t * (c.q_size() + plan.format.row_padding));
  block.log_sum_exp = carver.take_of<float>(t * c.num_heads);
  block.middle = carver.take(t * c.hidden_size);
  block.inverse_rms_ffn = carver.take_of<float>(t);
  block.gate = carver.take(t * c.intermediate_size);
  block.up = carver.take(t * c.intermediate_size);
  for (Activation& u : block.lora_u) u = carver.take(t * plan.rank);
}

void carve_head(Carver& carver, const TrainingShape& plan, TrainingMemory::Arrays& arrays) {
  const ModelConfig& c = plan.config;
  arrays.logit_rows = logit_rows_of(plan);
  arrays.head_input = carver.take(arrays.logit_rows * c.hidden_size);
  arrays.head_normed = carver.take(arrays.logit_rows * c.hidden_size);
  arrays.head_inverse = carver.take_of<float>(arrays.logit_rows);
  arrays.logits = carver.take_of<float>(arrays.logit_rows * c.vocab_size);
  arrays.d_logits = plan.format.dtype == DType::kF32 ? Activation(arrays.logits)
                                                     : carver.take(arrays.logit_rows * c.vocab_size);
  arrays.d_head = carver.take(arrays.logit_rows * c.hidden_size);
  arrays.losses = carver.take_of<float>(plan.tokens);
  arrays.loss_sum = carver.take_of<double>(1);
}

// Sets every pointer of `arrays` and returns the bytes used.
int64_t carve(std::byte* base, const TrainingShape& plan, TrainingMemory::Arrays& arrays) {
  const ModelConfig& c = plan.config;
  const int64_t t = plan.tokens, padding = plan.format.row_padding;
  Carver carver(base, plan.format.dtype);
  arrays.block_inputs.clear();
  for (int64_t i = 0; i <= c.num_layers; ++i) arrays.block_inputs.push_back(carver.take(t * c.hidden_size));
  arrays.blocks.assign(
      plan.policy == ActivationPolicy::kKeepAll ? static_cast<size_t>(c.num_layers) : size_t{1}, {});
  for (BlockActivations& block : arrays.blocks) carve_block(carver, plan, block);

  const int64_t widest = std::max({c.hidden_size, c.q_size(), c.intermediate_size});
  arrays.normed = carver.take(t * (c.hidden_size + padding));
  arrays.activated = carver.take(t * (c.intermediate_size + padding));
  // Kernels for whole adapted layers mask as they read.
  const int64_t masked = plan.format.dtype == DType::kF32 ? t * widest : 0;
  arrays.dropped = carver.take(masked);
  arrays.d_dropped = carver.take(masked);
  arrays.d_u = carver.take(t * plan.rank * kMaxLinearGroup);
  arrays.d_x = carver.take(t * (c.hidden_size + padding));
  arrays.d_normed = carver.take(t * c.hidden_size);
  arrays.d_activated = carver.take(t * c.intermediate_size);
  arrays.d_attended = carver.take(t * (c.q_size() + padding));
  arrays.d_query = carver.take(t * c.q_size());
  arrays.d_key = carver.take(t * c.kv_size());
  arrays.d_value = carver.take(t * c.kv_size());
  carve_head(carver, plan, arrays);
  for (int32_t** array : {&arrays.tokens, &arrays.positions, &arrays.first_row, &arrays.end_row,
                          &arrays.starts, &arrays.labels, &arrays.labelled})
    *array = carver.take_of<int32_t>(t + 1);
  arrays.first_stream = carver.take_of<uint64_t>(1);
  return carver.used();
}

}  // namespace

Recordings<TrainingPassKey>& TrainingMemory::recordings(int64_t tokens) {
  if (tokens > longest_recorded_) recordings_.clear();
  longest_recorded_ = std::max(longest_recorded_, tokens);
  return recordings_;
}

TrainingMemory::TrainingMemory(const Model& model, const Compute& compute, int64_t max_tokens,
                               ActivationPolicy policy)
    : max_tokens_(max_tokens),
      policy_(policy),
      stream_(compute.stream()),
      arrays_(std::make_unique<Arrays>()),
      layers_(model, stream_) {
  ONGGI_CHECK(max_tokens > 0);
  const int64_t rank = model.adapter ? model.adapter->rank() : 0;
  const ActivationFormat format =
      ActivationFormat::of(compute.ops, stream_.device().kind, compute.precision, rank);
  const TrainingShape plan{model.config, format, rank, max_tokens, policy};
  arrays_->memory = stream_.allocate(static_cast<size_t>(carve(nullptr, plan, *arrays_)));
  carve(arrays_->memory.as<std::byte>(), plan, *arrays_);
  stream_.fill_zero(arrays_->loss_sum, sizeof(double));
}

TrainingMemory::~TrainingMemory() = default;

uint64_t TrainingMemory::bytes(const TrainingShape& shape) {
  Arrays arrays;
  return static_cast<uint64_t>(carve(nullptr, shape, arrays));
}

double TrainingMemory::take_loss_sum() {
  double sum = 0;
  stream_.copy_out(&sum, arrays_->loss_sum, sizeof sum);
  stream_.fill_zero(arrays_->loss_sum, sizeof sum);
  return sum;
}

}  // namespace onggi

#include "train/memory_plan.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

// Tiles of dequantised weights and activations rounded to bf16, per thread and shared
// (kernels/ops/context.h).
uint64_t scratch_bytes(const TrainingNeeds& needs, int64_t tokens) {
  const ModelConfig& c = needs.model;
  const auto widest = static_cast<uint64_t>(std::max({c.hidden_size, c.q_size(), c.intermediate_size}));
  if (needs.format.device == DeviceKind::kCuda) {
    // The largest weight as bf16, and the workspace of the matrix library.
    const auto columns = static_cast<uint64_t>(c.hidden_size + needs.format.row_padding);
    return widest * columns * sizeof(uint16_t) + (uint64_t{64} << 20);
  }
  const uint64_t tile_rows = 512;
  return static_cast<uint64_t>(needs.threads) * tile_rows * widest * sizeof(float) +
         static_cast<uint64_t>(tokens) * widest * sizeof(float);
}

// What a token costs under a plan, in units of its matrix products: recomputing a block's forward adds a
// third, and each pass decodes every weight once more per product, which a pass of few tokens feels.
double cost_of(const TrainingPlan& plan, DeviceKind device) {
  const bool recomputes = plan.policy == ActivationPolicy::kRecomputeBlocks;
  // Decoding all weights for forward and backward takes as long as the products of so many tokens: on an
  // H100, 2 x 5.8 ms against 41 us a token (8B); on the CPU tiles of weights are decoded within the caches.
  const double decoding_tokens = device == DeviceKind::kCuda ? 283 : 16;
  return (recomputes ? 4.0 / 3 : 1) +
         (recomputes ? 1.5 : 1) * decoding_tokens / static_cast<double>(plan.tokens_per_pass);
}

// The most tokens of a pass that is worth its memory: from here on decoding is hidden.
int64_t most_tokens(const Config& config, const TrainingNeeds& needs, int64_t longest) {
  constexpr int64_t kMostTokensOnGpu = 16384;
  if (!config.training.packing) return longest * config.training.per_device_train_batch_size;
  const int64_t limit = needs.format.device == DeviceKind::kCuda ? kMostTokensOnGpu : config.max_seq_length;
  return std::min(longest * needs.samples_per_step, std::max(limit, longest));
}

}  // namespace

TrainingPlan plan_for(const TrainingNeeds& needs, int64_t tokens, ActivationPolicy policy) {
  TrainingPlan plan;
  plan.policy = policy;
  plan.tokens_per_pass = tokens;
  plan.items = {
      {text("base weights"), needs.weight_bytes},
      {text("LoRA weights, gradients and AdamW state"), needs.lora_parameters * 4 * sizeof(float)},
      {policy == ActivationPolicy::kKeepAll ? text("activations, all kept")
                                            : text("activations, blocks recomputed"),
       TrainingMemory::bytes({needs.model, needs.format, needs.rank, tokens, policy})},
      {text("working memory of kernels"), scratch_bytes(needs, tokens)},
  };
  for (const MemoryItem& item : plan.items) plan.total_bytes += item.bytes;
  return plan;
}

std::string TrainingPlan::to_text() const {
  std::string out;
  for (const MemoryItem& item : items)
    out += fmt::format("{:>10.1f} MiB  {}\n", static_cast<double>(item.bytes) / kMiB, item.name);
  return out + fmt::format("{:>10.1f} MiB  {}\n", static_cast<double>(total_bytes) / kMiB,
                           text("in all, passes of at most {} tokens", tokens_per_pass));
}

TrainingPlan plan_training(const Config& config, const TrainingNeeds& needs) {
  const int64_t longest = std::max<int64_t>(needs.longest_sample, 1);
  const int64_t tokens = most_tokens(config, needs, longest);
  using Checkpointing = TrainingConfig::Checkpointing;
  std::vector<ActivationPolicy> policies;
  if (config.training.gradient_checkpointing != Checkpointing::kOn)
    policies.push_back(ActivationPolicy::kKeepAll);
  if (config.training.gradient_checkpointing != Checkpointing::kOff)
    policies.push_back(ActivationPolicy::kRecomputeBlocks);
  TrainingPlan smallest;
  std::optional<TrainingPlan> best;
  for (ActivationPolicy policy : policies) {
    for (int64_t t = tokens;; t = std::max(longest, t / 2)) {
      const TrainingPlan plan = plan_for(needs, t, policy);
      if (smallest.total_bytes == 0 || plan.total_bytes < smallest.total_bytes) smallest = plan;
      const bool fits = plan.total_bytes <= needs.budget_bytes;
      const DeviceKind device = needs.format.device;
      if (fits && (!best || cost_of(plan, device) < cost_of(*best, device))) best = plan;
      if (fits || t <= longest) break;
    }
  }
  if (best) return *best;
  // Would a shorter cut of the samples do?
  for (int64_t t = longest / 2; t >= 64; t /= 2) {
    const TrainingPlan shorter = plan_for(needs, t, ActivationPolicy::kRecomputeBlocks);
    if (shorter.total_bytes <= needs.budget_bytes)
      throw MachineError(text(
          "training needs {:.0f} MiB and {:.0f} MiB may be used: set cutoff_len = {} and "
          "gradient_checkpointing = true, "
          "which need {:.0f} MiB",
          static_cast<double>(smallest.total_bytes) / kMiB, static_cast<double>(needs.budget_bytes) / kMiB, t,
          static_cast<double>(shorter.total_bytes) / kMiB));
  }
  throw MachineError(
      text("training needs {:.0f} MiB and {:.0f} MiB may be used: take a smaller model or a machine with "
           "more memory; the base weights alone are {:.0f} MiB",
           static_cast<double>(smallest.total_bytes) / kMiB, static_cast<double>(needs.budget_bytes) / kMiB,
           static_cast<double>(needs.weight_bytes) / kMiB));
}

}  // namespace onggi

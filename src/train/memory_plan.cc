#include "train/memory_plan.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/text.h"
#include "model/product_memory.h"

namespace onggi {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

// Tiles of dequantised weights and activations rounded to bf16, per thread and shared
// (kernels/ops/context.h); on a GPU of one op (CudaStream::scratch).
uint64_t scratch_bytes(const TrainingNeeds& needs, int64_t tokens) {
  const ModelConfig& c = needs.model;
  if (needs.format.device == DeviceKind::kCuda) {
    // Beside the products, sums of the adapters' gradients, up to a quarter of those of gate and up.
    return product_bytes(c, needs.format) + static_cast<uint64_t>(tokens * c.intermediate_size);
  }
  const auto widest = static_cast<uint64_t>(std::max({c.hidden_size, c.q_size(), c.intermediate_size}));
  const uint64_t tile_rows = 512;
  return static_cast<uint64_t>(needs.threads) * tile_rows * widest * sizeof(float) +
         static_cast<uint64_t>(tokens) * widest * sizeof(float);
}

// What a token costs under a plan, in units of its matrix products: recomputing a block's forward adds a
// third, and each pass decodes every weight once more per product, which a pass of few tokens feels.
// Offloaded layers come to the device beside that, for the forward and for the backward of each pass.
double cost_of(const TrainingPlan& plan, DeviceKind device) {
  const bool recomputes = plan.policy == ActivationPolicy::kRecomputeBlocks;
  // Decoding all weights for forward and backward takes as long as the products of so many tokens: on an
  // H200, by passes of 512 and 1,024 tokens, 41 ms against 47 us a token (8B); on the CPU tiles of weights
  // are decoded within the caches.
  const double decoding_tokens = device == DeviceKind::kCuda ? 870 : 16;
  // The same of copying all layers twice: 154 ms for 2 x 3.5 GB.
  constexpr double kCopyingTokens = 3300;
  const auto pass_tokens = static_cast<double>(plan.tokens_per_pass);
  const double computing =
      (recomputes ? 4.0 / 3 : 1) + (recomputes ? 1.5 : 1) * decoding_tokens / pass_tokens;
  const double share = static_cast<double>(plan.offloaded_layers) / static_cast<double>(plan.layers);
  return std::max(computing, share * kCopyingTokens / pass_tokens);
}

// The tokens of a pass: from those of its longest micro-batch to the most that are worth their memory, where
// decoding is hidden.
struct PassTokens {
  int64_t least, most;
};
PassTokens pass_tokens(const Config& config, const TrainingNeeds& needs) {
  const int64_t longest = std::max<int64_t>(needs.longest_sample, 1);
  constexpr int64_t kMostTokensOnGpu = 16384;
  if (!config.training.packing) {
    const int64_t batch = longest * config.training.per_device_train_batch_size;
    return {batch, batch};
  }
  const int64_t limit = needs.format.device == DeviceKind::kCuda ? kMostTokensOnGpu : config.max_seq_length;
  return {longest, std::min(longest * needs.samples_per_step, std::max(limit, longest))};
}

std::vector<ActivationPolicy> allowed_policies(const Config& config) {
  using Checkpointing = TrainingConfig::Checkpointing;
  std::vector<ActivationPolicy> policies;
  if (config.training.gradient_checkpointing != Checkpointing::kOn)
    policies.push_back(ActivationPolicy::kKeepAll);
  if (config.training.gradient_checkpointing != Checkpointing::kOff)
    policies.push_back(ActivationPolicy::kRecomputeBlocks);
  return policies;
}

// Layers that can be offloaded at the most.
int64_t most_offloaded(const TrainingNeeds& needs) {
  return needs.format.device == DeviceKind::kCuda ? needs.model.num_layers : 0;
}

// The strategy with as few layers offloaded as bring it into the budget, or with all.
TrainingPlan plan_offloading(const TrainingNeeds& needs, TrainingStrategy strategy) {
  TrainingPlan plan;
  // The first ones only fill the buffers.
  for (strategy.offloaded_layers = layer_buffers(most_offloaded(needs));; ++strategy.offloaded_layers) {
    plan = plan_for(needs, strategy);
    if (plan.total_bytes <= needs.budget_bytes || strategy.offloaded_layers == most_offloaded(needs))
      return plan;
  }
}

[[noreturn]] void throw_too_little(const TrainingNeeds& needs, const TrainingPlan& smallest) {
  const auto mebibytes = [](uint64_t bytes) { return static_cast<double>(bytes) / kMiB; };
  // Would a shorter cut of the samples do?
  for (int64_t t = needs.longest_sample / 2; t >= 64; t /= 2) {
    const TrainingPlan shorter =
        plan_offloading(needs, {.tokens = t, .policy = ActivationPolicy::kRecomputeBlocks});
    if (shorter.total_bytes <= needs.budget_bytes)
      throw MachineError(text(
          "training needs {:.0f} MiB and {:.0f} MiB may be used: set cutoff_len = {} and "
          "gradient_checkpointing = true, "
          "which need {:.0f} MiB",
          mebibytes(smallest.total_bytes), mebibytes(needs.budget_bytes), t, mebibytes(shorter.total_bytes)));
  }
  throw MachineError(
      text("training needs {:.0f} MiB and {:.0f} MiB may be used: take a smaller model or a machine with "
           "more memory; the base weights alone are {:.0f} MiB",
           mebibytes(smallest.total_bytes), mebibytes(needs.budget_bytes),
           mebibytes(smallest.items.front().bytes)));
}

}  // namespace

TrainingPlan plan_for(const TrainingNeeds& needs, const TrainingStrategy& strategy) {
  const auto offloaded = static_cast<uint64_t>(strategy.offloaded_layers);
  const uint64_t offloaded_bytes = offloaded * needs.weights.layer;
  TrainingPlan plan;
  plan.policy = strategy.policy;
  plan.tokens_per_pass = strategy.tokens;
  plan.layers = needs.model.num_layers;
  plan.offloaded_layers = strategy.offloaded_layers;
  plan.items = {
      {text("base weights"), needs.weights.total - offloaded_bytes},
      {text("LoRA weights, gradients and AdamW state"), needs.lora_parameters * 4 * sizeof(float)},
      {strategy.policy == ActivationPolicy::kKeepAll ? text("activations, all kept")
                                                     : text("activations, blocks recomputed"),
       TrainingMemory::bytes({needs.model, needs.format, needs.rank, strategy.tokens, strategy.policy})},
      {text("working memory of kernels"), scratch_bytes(needs, strategy.tokens)},
  };
  if (offloaded > 0) {
    plan.items.push_back(
        {text("buffers for offloaded layers"),
         static_cast<uint64_t>(layer_buffers(strategy.offloaded_layers)) * needs.weights.layer});
    plan.on_host = {text("in page-locked host memory besides: {} of {} layers are offloaded", offloaded,
                         needs.model.num_layers),
                    offloaded_bytes};
  }
  for (const MemoryItem& item : plan.items) plan.total_bytes += item.bytes;
  return plan;
}

std::string TrainingPlan::to_text() const {
  const auto line = [](const MemoryItem& item) {
    return fmt::format("{:>10.1f} MiB  {}\n", static_cast<double>(item.bytes) / kMiB, item.name);
  };
  std::string out;
  for (const MemoryItem& item : items) out += line(item);
  out += line({text("in all, passes of at most {} tokens", tokens_per_pass), total_bytes});
  return on_host.bytes > 0 ? out + line(on_host) : out;
}

std::string TrainingPlan::strategy_text() const {
  std::string out = policy == ActivationPolicy::kKeepAll
                        ? text("activations kept, passes of at most {} tokens", tokens_per_pass)
                        : text("blocks recomputed, passes of at most {} tokens", tokens_per_pass);
  if (offloaded_layers > 0) out += text(", {} of {} layers offloaded", offloaded_layers, layers);
  return out;
}

TrainingPlan smallest_plan(const Config& config, const TrainingNeeds& needs) {
  return plan_for(needs, {.tokens = pass_tokens(config, needs).least,
                          .policy = allowed_policies(config).back(),
                          .offloaded_layers = most_offloaded(needs)});
}

TrainingPlan plan_training(const Config& config, const TrainingNeeds& needs) {
  const auto [least, most] = pass_tokens(config, needs);
  std::optional<TrainingPlan> best;
  const auto consider = [&](const TrainingPlan& plan) {
    const bool fits = plan.total_bytes <= needs.budget_bytes;
    const DeviceKind device = needs.format.device;
    if (fits && (!best || cost_of(plan, device) < cost_of(*best, device))) best = plan;
    return fits;
  };
  // Where a pass does not fit, layers can make room for it: shorter passes leave more of them on the device,
  // and come oftener.
  for (const ActivationPolicy policy : allowed_policies(config))
    for (int64_t tokens = most;; tokens = std::max(least, tokens / 2)) {
      const bool fits = consider(plan_for(needs, {tokens, policy}));
      if (!fits && most_offloaded(needs) > 0) consider(plan_offloading(needs, {tokens, policy}));
      if (fits || tokens == least) break;
    }
  if (!best) throw_too_little(needs, smallest_plan(config, needs));
  return *best;
}

}  // namespace onggi

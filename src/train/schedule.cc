#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace onggi {

double learning_rate_at(const TrainingConfig& config, int64_t step) {
  const auto at = static_cast<double>(step), warmup = static_cast<double>(config.warmup_steps);
  using Scheduler = TrainingConfig::Scheduler;
  // As in transformers, plain "constant" ignores the warm-up.
  if (config.lr_scheduler_type == Scheduler::kConstant) return config.learning_rate;
  if (step < config.warmup_steps) return config.learning_rate * at / std::max(1.0, warmup);
  const double rest = std::max(1.0, static_cast<double>(config.max_steps) - warmup);
  switch (config.lr_scheduler_type) {
    case Scheduler::kLinear:
      return config.learning_rate * std::max(0.0, (static_cast<double>(config.max_steps) - at) / rest);
    case Scheduler::kCosine:
      return config.learning_rate * 0.5 *
             (1.0 + std::cos(std::numbers::pi * std::min(1.0, (at - warmup) / rest)));
    default:
      return config.learning_rate;
  }
}

}  // namespace onggi

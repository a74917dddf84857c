// Learning rate schedules, as transformers' get_scheduler names them.
#pragma once

#include <cstdint>

#include "config/config.h"

namespace onggi {

// The rate of optimiser step `step`, counted from 0. Linear: lr0 * (max_steps - step) / (max_steps -
// warmup_steps) after a rise from 0 over warmup_steps.
double learning_rate_at(const TrainingConfig& config, int64_t step);

}  // namespace onggi

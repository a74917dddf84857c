#pragma once

namespace onggi::cpu {

// The scalars of one AdamW step, the same for all elements.
struct AdamWStep {
  float scale;       // of clipping
  float decay;       // 1 - learning_rate * weight_decay
  float rate;        // learning_rate / (1 - beta1^step)
  float correction;  // 1 / (1 - beta2^step)
};

}  // namespace onggi::cpu

// The arrays of a training pass. Private to model/.
#pragma once

#include <vector>

#include "model/training.h"

namespace onggi {

inline constexpr int kProjections = 7;

// What one block keeps for its backward.
struct BlockActivations {
  float* inverse_rms_attention;  // f32 [T]
  float* query;                  // f32 [T, Hq, D] before norm and rotation
  float* key;                    // f32 [T, Hkv, D] likewise
  float* value;                  // f32 [T, Hkv, D]
  float* inverse_rms_query;      // f32 [T, Hq]
  float* inverse_rms_key;        // f32 [T, Hkv]
  float* rotated_query;          // f32 [T, Hq, D]
  float* rotated_key;            // f32 [T, Hkv, D]
  float* attended;               // f32 [T, Hq, D]
  float* log_sum_exp;            // f32 [T, Hq]
  float* middle;                 // f32 [T, C], after attention's residual
  float* inverse_rms_ffn;        // f32 [T]
  float* gate;                   // f32 [T, F]
  float* up;                     // f32 [T, F]
  float* lora_u[kProjections];   // f32 [T, R], A dropout(x) of each projection
};

struct TrainingMemory::Arrays {
  std::vector<float*> block_inputs;      // L + 1 of f32 [T, C]; the last is the last block's output
  std::vector<BlockActivations> blocks;  // L of them, or one that all blocks share (kRecomputeBlocks)

  float* normed;       // f32 [T, C]
  float* activated;    // f32 [T, F], silu(gate) * up
  float* dropped;      // f32 [T, max(C, Hq D, F)], the input of a LoRA pair after dropout
  float* d_dropped;    // f32 [T, max(C, Hq D, F)], its gradient
  float* d_u;          // f32 [T, R]
  float* d_x;          // f32 [T, C], gradient of the residual stream
  float* d_normed;     // f32 [T, C]
  float* d_activated;  // f32 [T, F], gradient of silu(gate) * up
  float* d_attended;   // f32 [T, Hq, D]
  float* d_query;      // f32 [T, Hq, D]
  float* d_key;        // f32 [T, Hkv, D]
  float* d_value;      // f32 [T, Hkv, D]

  int64_t logit_rows;   // labels per chunk of the loss
  float* head_input;    // f32 [logit_rows, C], gathered
  float* head_normed;   // f32 [logit_rows, C]
  float* head_inverse;  // f32 [logit_rows]
  float* logits;        // f32 [logit_rows, V]
  float* d_head;        // f32 [logit_rows, C]
  float* losses;        // f32 [T]

  std::unique_ptr<float[]> memory;
};

}  // namespace onggi

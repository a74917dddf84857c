// The arrays of a training pass. Private to model/.
#pragma once

#include <vector>

#include "model/training.h"

namespace onggi {

inline constexpr int kProjections = 7;

// What one block keeps for its backward. Activations are in the run's dtype; "padded" rows are
// OpTable::row_padding longer than the shape says.
struct BlockActivations {
  float* inverse_rms_attention;     // f32 [T]
  Activation query;                 // [T, Hq, D] before norm and rotation
  Activation key;                   // [T, Hkv, D] likewise
  Activation value;                 // [T, Hkv, D]
  float* inverse_rms_query;         // f32 [T, Hq]
  float* inverse_rms_key;           // f32 [T, Hkv]
  Activation rotated_query;         // [T, Hq, D]
  Activation rotated_key;           // [T, Hkv, D]
  Activation attended;              // [T, Hq, D], padded
  float* log_sum_exp;               // f32 [T, Hq]
  Activation middle;                // [T, C], after attention's residual
  float* inverse_rms_ffn;           // f32 [T]
  Activation gate;                  // [T, F]
  Activation up;                    // [T, F]
  Activation lora_u[kProjections];  // [T, R], A dropout(x) of each projection
};

struct TrainingMemory::Arrays {
  std::vector<Activation> block_inputs;  // L + 1 of [T, C]; the last is the last block's output
  std::vector<BlockActivations> blocks;  // L of them, or one that all blocks share (kRecomputeBlocks)

  Activation normed;       // [T, C], padded
  Activation activated;    // [T, F], padded: silu(gate) * up; then the gradient of up
  Activation dropped;      // [T, max(C, Hq D, F)], the input of a LoRA pair after dropout; f32 runs alone
  Activation d_dropped;    // [T, max(C, Hq D, F)], its gradient; f32 runs alone
  Activation d_u;          // [T, R] for each linear of a group
  Activation d_x;          // [T, C], padded: gradient of the residual stream
  Activation d_normed;     // [T, C]
  Activation d_activated;  // [T, F], gradient of silu(gate) * up
  Activation d_attended;   // [T, Hq, D]; then, padded, the gradient of the query before norm and rotation
  Activation d_query;      // [T, Hq, D]
  Activation d_key;        // [T, Hkv, D]
  Activation d_value;      // [T, Hkv, D]

  int64_t logit_rows;      // labels per chunk of the loss
  Activation head_input;   // [logit_rows, C], gathered
  Activation head_normed;  // [logit_rows, C]
  float* head_inverse;     // f32 [logit_rows]
  float* logits;           // f32 [logit_rows, V]
  Activation d_logits;     // [logit_rows, V]; the logits themselves in f32 runs
  Activation d_head;       // [logit_rows, C]
  float* losses;           // f32 [T]
  double* loss_sum;        // f64, over all passes since it was last taken

  // What the batch looks like, copied to the device: i32.
  int32_t* tokens;     // [T]
  int32_t* positions;  // [T]
  int32_t* first_row;  // [T]
  int32_t* end_row;    // [T]
  int32_t* starts;     // [T + 1]; S + 1 in use
  int32_t* labels;     // [T]; M in use
  int32_t* labelled;   // [T]; M in use: the rows that have a label
  // u64: the first of the pass's streams of dropout masks, also on the device
  uint64_t* first_stream;

  Buffer memory;
};

}  // namespace onggi

// Linear layers and embeddings over a weight of any dtype, and the plain products that LoRA needs.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/ops/activation.h"
#include "kernels/ops/context.h"

namespace onggi {

// A weight matrix [N, K]. Plain types: row-major. Block types: each row is K / block_elements blocks.
// kNF4: `data` holds two values a byte over the flattened matrix; its scales (blocks/nf4.h) lie beside it.
// On a GPU `data` has the layout that OpTable::place_weight made.
struct WeightView {
  DType dtype = DType::kF32;
  int64_t rows = 0;     // N
  int64_t columns = 0;  // K
  const void* data = nullptr;
  const uint8_t* nf4_absmax = nullptr;       // u8 [N K / 64]
  const float* nf4_nested_absmax = nullptr;  // f32 [ceil(N K / 64 / 256)]
  float nf4_offset = 0;
};

// out[t, :] = table[ids[t], :]
struct EmbeddingArgs {
  const int32_t* ids;  // i32 [T], each in [0, V)
  WeightView table;    // [V, C]
  int64_t tokens;      // T
  Activation out;      // [T, C]
};

// out (+)= x W^T
struct LinearArgs {
  ActivationView x;   // [T, K]
  WeightView weight;  // [N, K]
  int64_t tokens;     // T
  Activation out;     // [T, N]; its dtype may differ from x's
  Output output = Output::kOverwrite;
  Precision precision = Precision::kFast;
};

// The input's gradient of a linear layer whose weight is frozen: dx (+)= dout W
struct LinearBackwardArgs {
  ActivationView dout;  // [T, N]
  WeightView weight;    // [N, K]
  int64_t tokens;       // T
  Activation dx;        // [T, K]
  Output output = Output::kOverwrite;
  Precision precision = Precision::kFast;
};

enum class Transpose { kNo, kYes };

// c[m, n] (+)= alpha op(a) op(b), all f32 row-major; op(a) is [m, k], op(b) is [k, n].
struct GemmArgs {
  Transpose transpose_a = Transpose::kNo;
  Transpose transpose_b = Transpose::kNo;
  int64_t m, n, k;
  float alpha = 1.0f;
  const float* a;  // [m, k], or [k, m] when transposed
  const float* b;  // [k, n], or [n, k] when transposed
  float* c;        // [m, n]
  Output output = Output::kOverwrite;
  Precision precision = Precision::kFast;
};

// out[i] = keep(i) ? x[i] / (1 - p) : 0. keep depends on (seed, s, i) alone, s = *first_stream + stream:
// element i is kept when the (i mod 8)-th 16-bit word of philox(seed, s, i / 8), low half of each 32-bit word
// first, is at least round(p * 65536). The same call with Output::kAccumulate on a gradient is the op's own
// backward.
struct DropoutArgs {
  ActivationView x;  // [elements]
  int64_t elements;
  float probability;  // p in [0, 1)
  uint64_t seed;
  uint64_t stream;
  // u64 on the device, read when the op is computed: work that a GPU replays from a recording draws new
  // masks. null: 0
  const uint64_t* first_stream = nullptr;
  Activation out;  // [elements]; may be x when overwriting
  Output output = Output::kOverwrite;
};

// The stream of a mask, where first_stream can be read.
inline uint64_t stream_of(const DropoutArgs& args) {
  return args.stream + (args.first_stream == nullptr ? 0 : *args.first_stream);
}

// A LoRA pair in use: y += scale * B (A dropout(x)).
struct LoraView {
  const float* a = nullptr;  // f32 [R, K]; null: no adapter on this linear
  const float* b = nullptr;  // f32 [N, R]
  int64_t rank = 0;          // R
  float scale = 0;           // alpha / r
};

// Linear layers of one input (q, k, v; gate, up; or a single one), each with its own adapter.
inline constexpr int kMaxLinearGroup = 3;

// The dropout of LoRA inputs: each adapter of a group has its own stream; element i of its mask is that of
// DropoutArgs for the dense [T, K] input.
struct LoraDropout {
  float probability = 0;
  uint64_t seed = 0;
  const uint64_t* first_stream = nullptr;  // as in DropoutArgs
};

// out_i = residual + norm(x) W_i^T + scale * (u_i B_i^T), u_i = dropout_i(norm(x)) A_i^T
struct AdaptedLinearArgs {
  struct Member {
    WeightView weight;  // [N, K]
    LoraView lora;
    Activation out;               // [T, N]
    uint64_t dropout_stream = 0;  // of the mask
    Activation lora_u;            // [T, R], kept for backward; null: not kept
  };
  // [T, K], rows x_stride apart. Columns from K on, OpTable::row_padding of them, belong to the kernels.
  Activation x;
  int64_t x_stride = 0;  // elements; 0: K
  // f32 [K]: norm is RmsNorm with this weight (inference); null: norm(x) = x
  const float* norm = nullptr;
  float epsilon = 0;
  Activation normed;  // working memory for norm(x), rows of K + row_padding; null where norm is
  int64_t tokens = 0;
  int count = 1;  // members in use
  std::array<Member, kMaxLinearGroup> members;
  ActivationView residual;  // [T, N], may be out, has its dtype; null: none. Only where count is 1.
  LoraDropout dropout;
  Activation dropped;  // [T, K] working memory; used where there is dropout
  Activation u;        // [T, R] working memory; used where lora_u is null
  Precision precision = Precision::kFast;
};

// Gradients of AdaptedLinear without norm: dx (+)= sum_i dout_i W_i + dropout_i'(du_i A_i) with
// du_i = scale dout_i B_i; dA_i += du_i^T dropout_i(x); dB_i += scale dout_i^T u_i. The residual's gradient
// is dout itself and the caller's business.
struct AdaptedLinearBackwardArgs {
  struct Member {
    WeightView weight;  // [N, K]
    LoraView lora;
    // [T, N], rows dout_stride apart. Columns from N on, OpTable::row_padding of them, belong to the kernels.
    ActivationView dout;
    int64_t dout_stride = 0;  // elements; 0: N
    uint64_t dropout_stream = 0;
    ActivationView lora_u;        // [T, R] of the forward
    float* a_gradient = nullptr;  // f32 [R, K], added to
    float* b_gradient = nullptr;  // f32 [N, R], added to
  };
  ActivationView x;      // [T, K], rows x_stride apart
  int64_t x_stride = 0;  // elements; 0: K
  int64_t tokens = 0;
  int count = 1;
  std::array<Member, kMaxLinearGroup> members;
  Activation dx;  // [T, K], dense; null: not wanted
  Output output = Output::kOverwrite;
  LoraDropout dropout;
  Activation dropped;    // [T, K] working memory; used where there is dropout
  Activation d_dropped;  // [T, K] working memory; used where there is dropout
  Activation d_u;        // [T, R] working memory
  Precision precision = Precision::kFast;
};

// The first half of a feed-forward block in inference: out = silu(gate(x)) * up(x), where gate and up are
// members 0 and 1 of `linears`, whose outs are working memory.
struct GatedLinearArgs {
  AdaptedLinearArgs linears;
  Activation out;          // [T, F], rows out_stride apart
  int64_t out_stride = 0;  // elements; 0: F
};

// The backward of down(silu(gate) * up) in training, with what the forward kept of gate and up.
struct GatedLinearBackwardArgs {
  // Of down, its K is F and its count 1. x is `activated`; dx, working memory, receives the gradient of what
  // down reads.
  AdaptedLinearBackwardArgs linear;
  Activation activated;    // [T, F], rows linear.x_stride apart: working memory for silu(gate) * up
  ActivationView gate;     // [T, F]
  ActivationView up;       // [T, F]
  Activation dgate;        // [T, F]; may be gate
  Activation dup;          // [T, F], rows dup_stride apart; may be activated, and up where its rows are dense
  int64_t dup_stride = 0;  // elements; 0: F
};

}  // namespace onggi

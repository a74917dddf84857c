// Linear layers and embeddings over a weight of any dtype, and the plain products that LoRA needs.
#pragma once

#include <cstdint>

#include "kernels/ops/context.h"
#include "tensor/dtype.h"

namespace onggi {

// A weight matrix [N, K]. Plain types: row-major. Block types: each row is K / block_elements blocks.
// kNF4: `data` holds two values a byte over the flattened matrix; its scales (blocks/nf4.h) lie beside it.
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
  float* out;          // f32 [T, C]
};

// out (+)= x W^T
struct LinearArgs {
  const float* x;     // f32 [T, K]
  WeightView weight;  // [N, K]
  int64_t tokens;     // T
  float* out;         // f32 [T, N]
  Output output = Output::kOverwrite;
  Precision precision = Precision::kFast;
};

// The input's gradient of a linear layer whose weight is frozen: dx (+)= dout W
struct LinearBackwardArgs {
  const float* dout;  // f32 [T, N]
  WeightView weight;  // [N, K]
  int64_t tokens;     // T
  float* dx;          // f32 [T, K]
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

// out[i] = keep(i) ? x[i] / (1 - p) : 0. keep depends on (seed, stream, i) alone: element i is kept when the
// (i mod 8)-th 16-bit word of philox(seed, stream, i / 8), low half of each 32-bit word first, is at least
// round(p * 65536). The same call with Output::kAccumulate on a gradient is the op's own backward.
struct DropoutArgs {
  const float* x;  // f32 [elements]
  int64_t elements;
  float probability;  // p in [0, 1)
  uint64_t seed;
  uint64_t stream;
  float* out;  // f32 [elements]; may be x when overwriting
  Output output = Output::kOverwrite;
};

}  // namespace onggi

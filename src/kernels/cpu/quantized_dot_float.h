// f32, f16, bf16 and nf4 rows decoded to f32, then multiplied with f32 activations: what the portable and the
// AVX2 kernels share.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "blocks/nf4.h"
#include "kernels/cpu/quantized_dot_kernels.h"
#include "kernels/cpu/quantized_dot_unpack.h"

namespace onggi::cpu {

inline int64_t no_activation_bytes(int64_t) { return 0; }

// The absmaxes of the blocks of row n, [K / 64].
inline void nf4_row_absmaxes(const WeightView& weight, int64_t n, float* out) {
  const std::array<float, 256>& code = dynamic_code();
  const int64_t blocks = weight.columns / kNf4BlockElements, first = n * blocks;
  for (int64_t b = 0; b < blocks; ++b)
    out[b] = code[weight.nf4_absmax[first + b]] * weight.nf4_nested_absmax[(first + b) / kNf4NestedBlocks] +
             weight.nf4_offset;
}

namespace decoded {

// f32 [K] of a row and, for nf4, its absmaxes.
inline int64_t scratch_bytes(const LinearArgs& args) {
  return (args.weight.columns + args.weight.columns / kNf4BlockElements) *
         static_cast<int64_t>(sizeof(float));
}

inline void decode_nf4_row(const WeightView& weight, int64_t n, float* out) {
  float* absmaxes = out + weight.columns;
  nf4_row_absmaxes(weight, n, absmaxes);
  const auto* packed = static_cast<const uint8_t*>(weight.data) + n * weight.columns / 2;
  for (int64_t b = 0; b < weight.columns / kNf4BlockElements; ++b)
    for (int64_t i = kNf4BlockElements / 2 * b; i < kNf4BlockElements / 2 * (b + 1); ++i) {
      out[2 * i] = kNf4Code[packed[i] >> 4] * absmaxes[b];
      out[2 * i + 1] = kNf4Code[packed[i] & 15] * absmaxes[b];
    }
}

template <typename Float>
const float* decode_row(const WeightView& weight, int64_t n, float* out) {
  const int64_t first = n * weight.columns;
  const auto* halves = static_cast<const uint16_t*>(weight.data) + first;
  switch (weight.dtype) {
    case DType::kF32:
      return static_cast<const float*>(weight.data) + first;
    case DType::kF16:
      Float::decode_f16(halves, weight.columns, out);
      return out;
    case DType::kBF16:
      for (int64_t i = 0; i < weight.columns; ++i) out[i] = bf16_to_f32(halves[i]);
      return out;
    default:
      decode_nf4_row(weight, n, out);
      return out;
  }
}

// Float: decode_f16(in, count, out) and dot(w, x, count).
template <typename Float>
void rows(const DotTask& task, int64_t begin, int64_t end, std::byte* scratch) {
  const WeightView& weight = task.args.weight;
  for (int64_t n = begin; n < end; ++n) {
    const float* w = decode_row<Float>(weight, n, reinterpret_cast<float*>(scratch));
    for (int64_t t = 0; t < task.args.tokens; ++t)
      task.put(t, n, Float::dot(w, task.args.x + t * weight.columns, weight.columns));
  }
}

}  // namespace decoded
}  // namespace onggi::cpu

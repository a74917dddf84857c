// NF4: QLoRA's 4-bit NormalFloat with double quantisation, byte for byte as bitsandbytes 0.50 stores it.
//
// A weight W [N, K] is cut, row-major, into blocks of 64 values. A block stores one absmax and 64 four-bit
// indices into kNf4Code; value = kNf4Code[index] * absmax. The absmaxes are themselves quantised: their mean
// (`offset`) is subtracted, and blocks of 256 of them store one f32 absmax and 256 eight-bit indices into the
// dynamic code. Together 4.127 bits per weight.
//
// Formula of a stored absmax: dynamic_code()[absmax_q8[b]] * nested_absmax[b / 256] + offset, in fp32.
// Source: Dettmers et al. 2023, "QLoRA", and the observable format of bitsandbytes.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace onggi {

inline constexpr int kNf4BlockElements = 64;
inline constexpr int kNf4NestedBlocks = 256;

// The 16 quantiles of the standard normal distribution that NF4 indexes. The only copy of these numbers.
inline constexpr std::array<float, 16> kNf4Code = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

// Value x in [-1, 1] takes the index of the nearest code value: it has the index i where exactly i of these
// 15 midpoints lie below it. A midpoint itself belongs to the lower index.
constexpr std::array<float, 15> nf4_midpoints() {
  std::array<float, 15> midpoints{};
  for (int i = 0; i < 15; ++i)
    midpoints[i] = static_cast<float>((double{kNf4Code[i]} + double{kNf4Code[i + 1]}) / 2);
  return midpoints;
}

// The 256 values, ascending, of the signed dynamic 8-bit code (1 sign bit, 7 exponent steps of base 10, the
// rest a linear fraction) that absmaxes are indices into. Generated once from its definition.
const std::array<float, 256>& dynamic_code();

// A view of an NF4 weight [N, K]; K is a multiple of 64, so that no block crosses a row.
struct Nf4Tensor {
  int64_t rows = 0;     // N
  int64_t columns = 0;  // K
  const uint8_t* packed =
      nullptr;  // [N * K / 2] two indices a byte: element 2i in the high nibble, 2i+1 in the low
  const uint8_t* absmax_q8 = nullptr;    // [N * K / 64]
  const float* nested_absmax = nullptr;  // [ceil(N * K / 64 / 256)] f32
  float offset = 0;                      // mean of the absmaxes

  int64_t elements() const { return rows * columns; }
  int64_t blocks() const { return elements() / kNf4BlockElements; }
  // The fp32 absmax of block b.
  float absmax(int64_t b) const {
    return dynamic_code()[absmax_q8[b]] * nested_absmax[b / kNf4NestedBlocks] + offset;
  }
};

// The owner of an NF4 weight in host memory.
struct Nf4Storage {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<uint8_t> packed;
  std::vector<uint8_t> absmax_q8;
  std::vector<float> nested_absmax;
  float offset = 0;

  Nf4Tensor view() const {
    return {rows, columns, packed.data(), absmax_q8.data(), nested_absmax.data(), offset};
  }
  uint64_t bytes() const {
    return packed.size() + absmax_q8.size() + nested_absmax.size() * sizeof(float) + sizeof offset;
  }
};

// Encodes a weight that arrives in pieces, in any order: the indices and the fp32 absmaxes (N * K / 64
// floats) are made at once, the double quantisation, which needs the mean of all absmaxes, in finish().
class Nf4Encoder {
 public:
  // K must be a multiple of 64 (InternalError otherwise: callers check what a file may cause).
  Nf4Encoder(int64_t rows, int64_t columns);
  // Elements [begin, begin + count) of the row-major weight, as f32; both multiples of 64. Disjoint ranges
  // may be encoded by several threads at the same time.
  void encode(int64_t begin, int64_t count, const float* values);
  // The encoded weight; every element must have been encoded once. The encoder is empty afterwards.
  Nf4Storage finish();

 private:
  Nf4Storage storage_;
  std::vector<float> absmax_;  // [N * K / 64]
};

// A whole plain tensor [N, K] (f32, f16, bf16), read row by row: no f32 copy of it is made.
Nf4Storage encode_nf4(const TensorView& weight);

// Elements [begin, begin + count) as fp32 products kNf4Code[index] * absmax, not rounded to a narrower type;
// begin even. What fp32 computation sees (tests/golden/logits_nf4.safetensors).
void decode_nf4(const Nf4Tensor& tensor, int64_t begin, int64_t count, float* out);
// The same rounded to bf16 bits (round to nearest even), which is what bitsandbytes hands to a bf16 matrix
// product and what tests/golden/nf4.safetensors holds.
void decode_nf4_bf16(const Nf4Tensor& tensor, int64_t begin, int64_t count, uint16_t* out);

}  // namespace onggi

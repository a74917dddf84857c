#include "blocks/nf4.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "blocks/multi_target.h"

namespace onggi {
namespace {

constexpr std::array<float, 15> kMidpoints = nf4_midpoints();

constexpr uint8_t kZeroIndex = 7;
static_assert(kNf4Code[kZeroIndex] == 0.0f);

// Both code values of each packed byte, so that decoding is one load and one product per pair.
struct CodePair {
  float high, low;
};
constexpr std::array<CodePair, 256> code_pairs() {
  std::array<CodePair, 256> pairs{};
  for (int byte = 0; byte < 256; ++byte) pairs[byte] = {kNf4Code[byte >> 4], kNf4Code[byte & 15]};
  return pairs;
}
constexpr std::array<CodePair, 256> kCodePairs = code_pairs();

std::array<float, 256> make_dynamic_code() {
  std::array<float, 256> code{};
  size_t count = 0;
  code[count++] = 0.0f;
  code[count++] = 1.0f;
  // Exponent e has 2^e values: the middles of 2^e equal parts of [0.1, 1], times 10^(e - 6), with both signs.
  // The part bounds are computed in fp32 as linspace does it: from the near end, with one rounding.
  double magnitude = 1e-6;
  for (int e = 0; e < 7; ++e, magnitude *= 10) {
    const int parts = 1 << e;
    const float step = (1.0f - 0.1f) / static_cast<float>(parts);
    const auto bound = [&](int i) {
      return i < (parts + 1) / 2 ? std::fma(step, static_cast<float>(i), 0.1f)
                                 : std::fma(-step, static_cast<float>(parts - i), 1.0f);
    };
    for (int i = 0; i < parts; ++i) {
      const float middle = (bound(i) + bound(i + 1)) / 2;
      const float value = static_cast<float>(magnitude) * middle;
      code[count++] = value;
      code[count++] = -value;
    }
  }
  ONGGI_CHECK(count == code.size());
  std::sort(code.begin(), code.end());
  return code;
}

// Index of the code value nearest to x; exactly between two, the even index wins.
uint8_t nearest_dynamic(const std::array<float, 256>& code, float x) {
  const auto above = std::lower_bound(code.begin(), code.end(), x);
  if (above == code.begin()) return 0;
  if (above == code.end()) return 255;
  const int upper = static_cast<int>(above - code.begin());
  const int lower = upper - 1;
  const float middle = (code[lower] + code[upper]) * 0.5f;
  if (x != middle) return static_cast<uint8_t>(x > middle ? upper : lower);
  return static_cast<uint8_t>(upper % 2 == 0 ? upper : lower);
}

ONGGI_TARGET_CLONES
void encode_blocks(const float* values, int64_t blocks, float* absmax, uint8_t* packed) {
  for (int64_t b = 0; b < blocks; ++b, values += kNf4BlockElements, packed += kNf4BlockElements / 2) {
    float largest = 0;
    for (int i = 0; i < kNf4BlockElements; ++i) largest = std::max(largest, std::fabs(values[i]));
    absmax[b] = largest;
    if (largest == 0) {  // no scale: all zeros must decode to zeros whatever the quantised absmax becomes
      std::fill_n(packed, kNf4BlockElements / 2, static_cast<uint8_t>(kZeroIndex << 4 | kZeroIndex));
      continue;
    }
    const float inverse = 1.0f / largest;
    float scaled[kNf4BlockElements];
    for (int i = 0; i < kNf4BlockElements; ++i) scaled[i] = values[i] * inverse;
    int32_t index[kNf4BlockElements] = {};
    for (const float midpoint : kMidpoints) {
      for (int i = 0; i < kNf4BlockElements; ++i) index[i] += scaled[i] > midpoint ? 1 : 0;
    }
    for (int i = 0; i < kNf4BlockElements / 2; ++i) {
      packed[i] = static_cast<uint8_t>(index[2 * i] << 4 | index[2 * i + 1]);
    }
  }
}

// Part of one block: elements from an even index on.
inline void decode_part(const uint8_t* packed, int64_t count, float absmax, float* out) {
  for (int64_t i = 0; i < count / 2; ++i) {
    const CodePair pair = kCodePairs[packed[i]];
    out[2 * i] = pair.high * absmax;
    out[2 * i + 1] = pair.low * absmax;
  }
}

// As f32_to_bf16 of tensor/dtype.h for values that are not NaN, in a form that compilers vectorise.
ONGGI_TARGET_CLONES
void round_to_bf16(const float* values, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, values + i, sizeof bits);
    out[i] = static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
  }
}

}  // namespace

const std::array<float, 256>& dynamic_code() {
  static const std::array<float, 256> code = make_dynamic_code();
  return code;
}

Nf4Encoder::Nf4Encoder(int64_t rows, int64_t columns) {
  ONGGI_CHECK(rows > 0 && columns > 0 && columns % kNf4BlockElements == 0);
  storage_.rows = rows;
  storage_.columns = columns;
  storage_.packed.resize(static_cast<size_t>(rows * columns / 2));
  absmax_.resize(static_cast<size_t>(rows * columns / kNf4BlockElements));
}

void Nf4Encoder::encode(int64_t begin, int64_t count, const float* values) {
  ONGGI_CHECK(begin >= 0 && begin % kNf4BlockElements == 0 && count % kNf4BlockElements == 0);
  ONGGI_CHECK(begin + count <= storage_.rows * storage_.columns);
  encode_blocks(values, count / kNf4BlockElements, absmax_.data() + begin / kNf4BlockElements,
                storage_.packed.data() + begin / 2);
}

Nf4Storage Nf4Encoder::finish() {
  const int64_t blocks = static_cast<int64_t>(absmax_.size());
  double sum = 0;
  for (const float value : absmax_) sum += value;
  storage_.offset = static_cast<float>(sum / static_cast<double>(blocks));
  storage_.absmax_q8.resize(absmax_.size());
  storage_.nested_absmax.resize(static_cast<size_t>((blocks + kNf4NestedBlocks - 1) / kNf4NestedBlocks));
  const std::array<float, 256>& code = dynamic_code();
  for (int64_t begin = 0; begin < blocks; begin += kNf4NestedBlocks) {
    const int64_t end = std::min<int64_t>(blocks, begin + kNf4NestedBlocks);
    float largest = 0;
    for (int64_t b = begin; b < end; ++b)
      largest = std::max(largest, std::fabs(absmax_[b] - storage_.offset));
    storage_.nested_absmax[begin / kNf4NestedBlocks] = largest;
    const float inverse = largest > 0 ? 1.0f / largest : 0.0f;
    for (int64_t b = begin; b < end; ++b) {
      storage_.absmax_q8[b] = nearest_dynamic(code, (absmax_[b] - storage_.offset) * inverse);
    }
  }
  absmax_ = {};
  return std::move(storage_);
}

Nf4Storage encode_nf4(const TensorView& weight) {
  ONGGI_CHECK(weight.shape.size() == 2, shape_text(weight.shape));
  const int64_t rows = weight.shape[0], columns = weight.shape[1];
  Nf4Encoder encoder(rows, columns);
  std::vector<float> row(static_cast<size_t>(columns));
  for (int64_t r = 0; r < rows; ++r) {
    read_as_f32(weight, r * columns, columns, row.data());
    encoder.encode(r * columns, columns, row.data());
  }
  return encoder.finish();
}

void decode_nf4(const Nf4Tensor& tensor, int64_t begin, int64_t count, float* out) {
  ONGGI_CHECK(begin >= 0 && begin % 2 == 0 && count % 2 == 0 && begin + count <= tensor.elements());
  while (count > 0) {
    const int64_t block = begin / kNf4BlockElements;
    const int64_t here = std::min(count, (block + 1) * kNf4BlockElements - begin);
    decode_part(tensor.packed + begin / 2, here, tensor.absmax(block), out);
    begin += here;
    count -= here;
    out += here;
  }
}

void decode_nf4_bf16(const Nf4Tensor& tensor, int64_t begin, int64_t count, uint16_t* out) {
  constexpr int64_t kChunk = 1024;
  float chunk[kChunk];
  while (count > 0) {
    const int64_t here = std::min(count, kChunk);
    decode_nf4(tensor, begin, here, chunk);
    round_to_bf16(chunk, here, out);
    begin += here;
    count -= here;
    out += here;
  }
}

}  // namespace onggi

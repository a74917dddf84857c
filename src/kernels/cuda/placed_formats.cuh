// Reading placed tiles (placed_layout.h), from global or shared memory.
//
// A format is a struct of static functions over `tile`, the 16-byte aligned bytes of one tile:
//   kColumns, kBytes  of a tile
//   kUnits            scales per 32 columns: 1 or 2 (one for each h)
//   kParts            bf16 numbers whose sum is kBias + value: 1 or 2
//   chunk(tile, lane, j)          a lane's bits of 64 columns
//   pair(chunk, c, r, part, q)    two neighbours as bf16: kBias + value, where kParts is 1
//   row(tile, row)                the scales of a row
//   scale(row, base, selected)    of unit base + selected, base a constant multiple of 4 unless selected is 0
// A weight is scale * (sum of parts - kBias) - minimum.
//
// bf16 numbers are made without arithmetic: below the exponent of 128 the seven bits of the mantissa count
// ones, below that of 2048 they count sixteens.
#pragma once

#include "kernels/cuda/placed_layout.h"
#include "kernels/cuda/vector.cuh"

namespace onggi::cuda {

inline constexpr uint32_t kOnes = 0x43004300u;      // two bf16 of 128
inline constexpr uint32_t kSixteens = 0x45004500u;  // two bf16 of 2048

struct Scale {
  float scale;
  float minimum;
};

namespace format_detail {

__device__ __forceinline__ uint32_t shift_right(uint32_t word, int bits) {
  return bits >= 0 ? word >> bits : word << -bits;
}
__device__ __forceinline__ uint32_t nibbles(uint32_t word, int q, uint32_t exponent) {
  return (word >> (4 * q) & 0x000F000Fu) | exponent;
}
// Two bits from bit 2 q on, moved to bit `to`.
__device__ __forceinline__ uint32_t two_bits(uint32_t word, int q, int to) {
  return shift_right(word, 2 * q - to) & (0x00030003u << to);
}
__device__ __forceinline__ uint32_t one_bit(uint32_t word, int q, int to) {
  return shift_right(word, q - to) & (0x00010001u << to);
}

// 2^23 + byte `index` of the word: the byte in the low end of a float's mantissa.
inline constexpr float kByteBase = 8388608.0f;
__device__ __forceinline__ float based_byte(uint32_t word, int index) {
  return __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7440u + static_cast<uint32_t>(index)));
}
__device__ __forceinline__ float half_value(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

template <typename Vector>
__device__ __forceinline__ Vector load(const uint8_t* address) {
  return *reinterpret_cast<const Vector*>(address);
}

struct Nibbles {
  uint32_t word[4];
};
__device__ __forceinline__ Nibbles load_nibbles(const uint8_t* plane, int lane) {
  const uint4 words = load<uint4>(plane + 16 * lane);
  return {{words.x, words.y, words.z, words.w}};
}
struct TwoBits {
  uint32_t word[2];
};
__device__ __forceinline__ TwoBits load_two_bits(const uint8_t* plane, int lane) {
  const uint2 words = load<uint2>(plane + 8 * lane);
  return {{words.x, words.y}};
}

// Q4_K's and Q5_K's: d, dmin, eight scales and minimums of six bits (blocks/q4_k.h: q4k_scale_min).
struct SixBitScales {
  float d, d_base, minimum, minimum_base;
  uint32_t scales[2], minimums[2];
};
__device__ __forceinline__ SixBitScales load_six_bit_scales(const uint8_t* head) {
  const uint4 words = load<uint4>(head);
  SixBitScales row;
  row.d = half_value(words.x & 0xFFFFu);
  row.minimum = half_value(words.x >> 16);
  row.d_base = -kByteBase * row.d;
  row.minimum_base = -kByteBase * row.minimum;
  row.scales[0] = words.y & 0x3F3F3F3Fu;
  row.minimums[0] = words.z & 0x3F3F3F3Fu;
  row.scales[1] = (words.w & 0x0F0F0F0Fu) | (words.y >> 2 & 0x30303030u);
  row.minimums[1] = (words.w >> 4 & 0x0F0F0F0Fu) | (words.z >> 2 & 0x30303030u);
  return row;
}
// d * byte is exact: 11 and 6 bits.
__device__ __forceinline__ Scale six_bit_scale(const SixBitScales& row, int base, int selected) {
  const int word = base / 4, byte = base % 4 + selected;
  return {fmaf(row.d, based_byte(row.scales[word], byte), row.d_base),
          fmaf(row.minimum, based_byte(row.minimums[word], byte), row.minimum_base)};
}

// Q6_K's and Q3_K's: 16 signed scales stored as scale + 128, then d.
struct SignedScales {
  float d;
  uint32_t scales[4];
};
__device__ __forceinline__ SignedScales load_signed_scales(const uint8_t* head, int row) {
  const uint4 words = load<uint4>(head + 16 * row);
  const uint32_t both = load<uint32_t>(head + 16 * kTileRows + 4 * (row % 8));
  return {half_value(row < 8 ? both & 0xFFFFu : both >> 16), {words.x, words.y, words.z, words.w}};
}
__device__ __forceinline__ Scale signed_scale(const SignedScales& row, int base, int selected) {
  const float scale = based_byte(row.scales[base / 4], base % 4 + selected) - (kByteBase + 128.0f);
  return {row.d * scale, 0.0f};
}

// One f16 per 32 columns.
template <int kWords>
struct HalfScales {
  uint32_t word[kWords];
};
template <int kWords>
__device__ __forceinline__ Scale half_scale(const HalfScales<kWords>& row, int base, int selected) {
  const int index = base % 2 + selected, first = base / 2;
  const int second = first + 1 < kWords ? first + 1 : first;
  const uint32_t word = index < 2 ? row.word[first] : row.word[second];
  return {half_value(index % 2 == 0 ? word & 0xFFFFu : word >> 16), 0.0f};
}

}  // namespace format_detail

struct FormatQ4K {
  static constexpr DType kDType = DType::kQ4_K;
  static constexpr int kColumns = 256, kBytes = placed_tile(kDType).bytes, kUnits = 1, kParts = 1;
  static constexpr float kBias = 128.0f;
  using Chunk = format_detail::Nibbles;
  using Row = format_detail::SixBitScales;
  static __device__ __forceinline__ Chunk chunk(const uint8_t* tile, int lane, int j) {
    return format_detail::load_nibbles(tile + 512 * j, lane);
  }
  static __device__ __forceinline__ uint32_t pair(const Chunk& chunk, int c, int r, int, int q) {
    return format_detail::nibbles(chunk.word[2 * c + r], q, kOnes);
  }
  static __device__ __forceinline__ Row row(const uint8_t* tile, int row) {
    return format_detail::load_six_bit_scales(tile + 2048 + 16 * row);
  }
  static __device__ __forceinline__ Scale scale(const Row& row, int base, int selected) {
    return format_detail::six_bit_scale(row, base, selected);
  }
};

struct FormatQ5K {
  static constexpr DType kDType = DType::kQ5_K;
  static constexpr int kColumns = 256, kBytes = placed_tile(kDType).bytes, kUnits = 1, kParts = 1;
  static constexpr float kBias = 128.0f;
  struct Chunk {
    format_detail::Nibbles low;
    uint32_t fifth;
  };
  using Row = format_detail::SixBitScales;
  static __device__ __forceinline__ Chunk chunk(const uint8_t* tile, int lane, int j) {
    return {format_detail::load_nibbles(tile + 512 * j, lane),
            format_detail::load<uint32_t>(tile + 2048 + 128 * j + 4 * lane)};
  }
  static __device__ __forceinline__ uint32_t pair(const Chunk& chunk, int c, int r, int, int q) {
    return format_detail::nibbles(chunk.low.word[2 * c + r], q, kOnes) |
           format_detail::one_bit(chunk.fifth, q + 4 * r + 8 * c, 4);
  }
  static __device__ __forceinline__ Row row(const uint8_t* tile, int row) {
    return format_detail::load_six_bit_scales(tile + 2560 + 16 * row);
  }
  static __device__ __forceinline__ Scale scale(const Row& row, int base, int selected) {
    return format_detail::six_bit_scale(row, base, selected);
  }
};

struct FormatQ6K {
  static constexpr DType kDType = DType::kQ6_K;
  static constexpr int kColumns = 256, kBytes = placed_tile(kDType).bytes, kUnits = 2, kParts = 1;
  static constexpr float kBias = 128.0f + 32.0f;
  struct Chunk {
    format_detail::Nibbles low;
    format_detail::TwoBits upper;
  };
  using Row = format_detail::SignedScales;
  static __device__ __forceinline__ Chunk chunk(const uint8_t* tile, int lane, int j) {
    return {format_detail::load_nibbles(tile + 512 * j, lane),
            format_detail::load_two_bits(tile + 2048 + 256 * j, lane)};
  }
  static __device__ __forceinline__ uint32_t pair(const Chunk& chunk, int c, int r, int, int q) {
    return format_detail::nibbles(chunk.low.word[2 * c + r], q, kOnes) |
           format_detail::two_bits(chunk.upper.word[c], q + 4 * r, 4);
  }
  static __device__ __forceinline__ Row row(const uint8_t* tile, int row) {
    return format_detail::load_signed_scales(tile + 3072, row);
  }
  static __device__ __forceinline__ Scale scale(const Row& row, int base, int selected) {
    return format_detail::signed_scale(row, base, selected);
  }
};

struct FormatQ3K {
  static constexpr DType kDType = DType::kQ3_K;
  static constexpr int kColumns = 256, kBytes = placed_tile(kDType).bytes, kUnits = 2, kParts = 1;
  static constexpr float kBias = 128.0f + 4.0f;
  struct Chunk {
    format_detail::TwoBits low;
    uint32_t third;
  };
  using Row = format_detail::SignedScales;
  static __device__ __forceinline__ Chunk chunk(const uint8_t* tile, int lane, int j) {
    return {format_detail::load_two_bits(tile + 256 * j, lane),
            format_detail::load<uint32_t>(tile + 1024 + 128 * j + 4 * lane)};
  }
  static __device__ __forceinline__ uint32_t pair(const Chunk& chunk, int c, int r, int, int q) {
    return format_detail::two_bits(chunk.low.word[c], q + 4 * r, 0) |
           format_detail::one_bit(chunk.third, q + 4 * r + 8 * c, 2) | kOnes;
  }
  static __device__ __forceinline__ Row row(const uint8_t* tile, int row) {
    return format_detail::load_signed_scales(tile + 1536, row);
  }
  static __device__ __forceinline__ Scale scale(const Row& row, int base, int selected) {
    return format_detail::signed_scale(row, base, selected);
  }
};

struct FormatQ2K {
  static constexpr DType kDType = DType::kQ2_K;
  static constexpr int kColumns = 256, kBytes = placed_tile(kDType).bytes, kUnits = 2, kParts = 1;
  static constexpr float kBias = 128.0f;
  using Chunk = format_detail::TwoBits;
  struct Row {
    float d, d_base, minimum, minimum_base;
    uint32_t both[4];
  };
  static __device__ __forceinline__ Chunk chunk(const uint8_t* tile, int lane, int j) {
    return format_detail::load_two_bits(tile + 256 * j, lane);
  }
  static __device__ __forceinline__ uint32_t pair(const Chunk& chunk, int c, int r, int, int q) {
    return format_detail::two_bits(chunk.word[c], q + 4 * r, 0) | kOnes;
  }
  static __device__ __forceinline__ Row row(const uint8_t* tile, int row) {
    const uint4 words = format_detail::load<uint4>(tile + 1024 + 16 * row);
    const uint32_t factors = format_detail::load<uint32_t>(tile + 1280 + 4 * row);
    const float d = format_detail::half_value(factors & 0xFFFFu);
    const float minimum = format_detail::half_value(factors >> 16);
    return {d,
            -format_detail::kByteBase * d,
            minimum,
            -format_detail::kByteBase * minimum,
            {words.x, words.y, words.z, words.w}};
  }
  static __device__ __forceinline__ Scale scale(const Row& row, int base, int selected) {
    const int byte = base % 4 + selected;
    const uint32_t scales = row.both[base / 4] & 0x0F0F0F0Fu;
    const uint32_t minimums = row.both[base / 4] >> 4 & 0x0F0F0F0Fu;
    return {fmaf(row.d, format_detail::based_byte(scales, byte), row.d_base),
            fmaf(row.minimum, format_detail::based_byte(minimums, byte), row.minimum_base)};
  }
};

struct FormatQ8_0 {
  static constexpr DType kDType = DType::kQ8_0;
  static constexpr int kColumns = 128, kBytes = placed_tile(kDType).bytes, kUnits = 1, kParts = 2;
  static constexpr float kBias = 128.0f + 2048.0f + 128.0f;
  struct Chunk {
    format_detail::Nibbles part[2];
  };
  using Row = format_detail::HalfScales<2>;
  static __device__ __forceinline__ Chunk chunk(const uint8_t* tile, int lane, int j) {
    return {{format_detail::load_nibbles(tile + 1024 * j, lane),
             format_detail::load_nibbles(tile + 1024 * j + 512, lane)}};
  }
  static __device__ __forceinline__ uint32_t pair(const Chunk& chunk, int c, int r, int part, int q) {
    return format_detail::nibbles(chunk.part[part].word[2 * c + r], q, part == 0 ? kOnes : kSixteens);
  }
  static __device__ __forceinline__ Row row(const uint8_t* tile, int row) {
    const uint2 words = format_detail::load<uint2>(tile + 2048 + 8 * row);
    return {{words.x, words.y}};
  }
  static __device__ __forceinline__ Scale scale(const Row& row, int base, int selected) {
    return format_detail::half_scale(row, base, selected);
  }
};

struct FormatQ4_0 {
  static constexpr DType kDType = DType::kQ4_0;
  static constexpr int kColumns = 256, kBytes = placed_tile(kDType).bytes, kUnits = 1, kParts = 1;
  static constexpr float kBias = 128.0f + 8.0f;
  using Chunk = format_detail::Nibbles;
  using Row = format_detail::HalfScales<4>;
  static __device__ __forceinline__ Chunk chunk(const uint8_t* tile, int lane, int j) {
    return format_detail::load_nibbles(tile + 512 * j, lane);
  }
  static __device__ __forceinline__ uint32_t pair(const Chunk& chunk, int c, int r, int, int q) {
    return format_detail::nibbles(chunk.word[2 * c + r], q, kOnes);
  }
  static __device__ __forceinline__ Row row(const uint8_t* tile, int row) {
    const uint4 words = format_detail::load<uint4>(tile + 2048 + 16 * row);
    return {{words.x, words.y, words.z, words.w}};
  }
  static __device__ __forceinline__ Scale scale(const Row& row, int base, int selected) {
    return format_detail::half_scale(row, base, selected);
  }
};

// The eight values of lane (g, p) in row g + 8 r and 32 columns s of a tile: values[4 h + i], exactly those
// of decode_weight.
template <typename Format>
__device__ __forceinline__ void decode_group(const typename Format::Chunk& chunk,
                                             const typename Format::Row& row, int s, int r,
                                             float (&values)[8]) {
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    float2 sum = unpack_bf16(Format::pair(chunk, s % 2, r, 0, q));
    if constexpr (Format::kParts == 2) {
      const float2 second = unpack_bf16(Format::pair(chunk, s % 2, r, 1, q));
      sum.x += second.x;
      sum.y += second.y;
    }
    const Scale scale = Format::scale(row, Format::kUnits * s + (Format::kUnits == 2 ? q / 2 : 0), 0);
    values[2 * q] = fmaf(scale.scale, sum.x - Format::kBias, -scale.minimum);
    values[2 * q + 1] = fmaf(scale.scale, sum.y - Format::kBias, -scale.minimum);
  }
}

// Runs body(Format{}) for the format of a dtype that is placed in tiles; false where it has none.
template <typename Body>
bool with_placed_format(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kQ4_K:
      return body(FormatQ4K{}), true;
    case DType::kQ5_K:
      return body(FormatQ5K{}), true;
    case DType::kQ6_K:
      return body(FormatQ6K{}), true;
    case DType::kQ8_0:
      return body(FormatQ8_0{}), true;
    case DType::kQ4_0:
      return body(FormatQ4_0{}), true;
    case DType::kQ3_K:
      return body(FormatQ3K{}), true;
    case DType::kQ2_K:
      return body(FormatQ2K{}), true;
    default:
      return false;
  }
}

}  // namespace onggi::cuda

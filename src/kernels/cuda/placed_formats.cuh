// Reading placed tiles (placed_layout.h), from global or shared memory.
//
// A format is a struct of static functions over `tile`, the 16-byte aligned bytes of one tile:
//   kBytes          of a tile
//   kGroups         scales for a half of a lane's columns, which is 32: 1, or 2 for 16 columns each
//   unit(tile, lane, u)        a lane's bits of 16 columns of its two rows
//   pair(unit, r, i)           the bits of two neighbours as f16 numbers that count the stored value
//   whole(pair)                the weights without scale and minimum: exact whole numbers
//   scales(tile, row, p, h, out)  of lane p's half h of a row: weight = scale * whole - minimum
//   bytes(unit, r, s)          word s of the stored values, times kByteSteps, as unsigned bytes
//   kByteSteps, kOrigin        the whole number is stored value - kOrigin
//   Factors, factors(tile, row, p, h, out)    those scales as f16, and
//   weights(pair, factors)     the weights as f16, for products
// f16 numbers are made without arithmetic: under the exponent of 1 the mantissa's upper bits count.
//
// Weights for products are rounded to f16 once, at the end, but for an error of 2^-12 (minimum + the scale
// times 2^bits) where a format has minimums: a 160th of a step of Q4_K at most.
#pragma once

#include "kernels/cuda/placed_layout.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vector.cuh"

namespace onggi::cuda {

struct Scale {
  float scale;
  float minimum;
};

namespace format_detail {

inline constexpr uint32_t kOnes = 0x3C003C00u;  // two f16 of 1

__device__ __forceinline__ uint32_t shift_right(uint32_t word, int bits) {
  return bits >= 0 ? word >> bits : word << -bits;
}
// Pair f of a word of 4 bits at its destination, beside what the others leave there.
__device__ __forceinline__ uint32_t moved_nibbles(uint32_t word, int f) {
  if (f == 0) return word;
  if (f == 1) return word << 4;
  if (f == 2) return word >> 4;
  return __byte_perm(word, 0, 0x2103);
}
template <int kDestination>
__device__ __forceinline__ uint32_t nibbles(uint32_t word, int f) {
  return and_or(moved_nibbles(word, f), 0x000F000Fu << kDestination, kOnes);
}
// The lowest bit of pair i in a unit's plane of 2 bits, and of 1 bit of row 0: where its first value's byte
// has its word's bits. f = 3: the second one comes before it.
constexpr int byte_plane_bit(int i, int word_bits) {
  const int byte = byte_of_column(2 * (i % 4));
  return 8 * (byte % 4) + word_bits * (2 * (i / 4) + byte / 4);
}
__device__ __forceinline__ uint32_t rotate_right(uint32_t word, int bits) {
  return bits == 0 ? word : __funnelshift_r(word, word, static_cast<uint32_t>(bits));
}
// `others` with two bits (or one) of pair i of a plane, at bit `to`.
__device__ __forceinline__ uint32_t add_two_bits(uint32_t word, int i, int to, uint32_t others) {
  return and_or(rotate_right(word, byte_plane_bit(i, 2) - to), 0x00030003u << to, others);
}
__device__ __forceinline__ uint32_t add_one_bit(uint32_t word, int r, int i, int to, uint32_t others) {
  return and_or(rotate_right(word, byte_plane_bit(i, 1) + 4 * r - to), 0x00010001u << to, others);
}

// Bytes of word s from the planes, at bit `to`.
template <int kDestination>
__device__ __forceinline__ uint32_t nibble_bytes(uint32_t word, int s) {
  return rotate_right(word, s % 2 == 0 ? 0 : 4) & 0x0F0F0F0Fu << (kDestination - 4);
}
__device__ __forceinline__ uint32_t add_two_bit_bytes(uint32_t word, int s, int to, uint32_t others) {
  return and_or(shift_right(word, 2 * s - to), 0x03030303u << to, others);
}
__device__ __forceinline__ uint32_t add_one_bit_bytes(uint32_t word, int r, int s, int to, uint32_t others) {
  return and_or(shift_right(word, 4 * r + s - to), 0x01010101u << to, others);
}

// 2^23 + n: n in the low end of a float's mantissa.
inline constexpr float kWholeBase = 8388608.0f;
__device__ __forceinline__ float based_byte(uint32_t word, int index) {
  return __uint_as_float(__byte_perm(word, 0x4B000000u, 0x7440u + static_cast<uint32_t>(index)));
}
__device__ __forceinline__ float based_bits(uint32_t word, int from, uint32_t mask) {
  return __uint_as_float((word >> from & mask) | 0x4B000000u);
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
__device__ __forceinline__ Nibbles load_nibbles(const uint8_t* plane, int lane, int u) {
  const uint4 words = load<uint4>(plane + 512 * u + 16 * lane);
  return {{words.x, words.y, words.z, words.w}};
}
struct TwoBits {
  uint32_t word[2];
};
__device__ __forceinline__ TwoBits load_two_bits(const uint8_t* plane, int lane, int u) {
  const uint2 words = load<uint2>(plane + 256 * u + 8 * lane);
  return {{words.x, words.y}};
}

// Whole numbers of pairs 1 + value / kSteps.
template <int kSteps, int kBias>
__device__ __forceinline__ float2 whole_of(uint32_t pair) {
  const float2 ones = unpack_f16(pair);
  return make_float2(fmaf(ones.x, kSteps, -kSteps - kBias), fmaf(ones.y, kSteps, -kSteps - kBias));
}

// weight = kSteps * scale * (pair - 1) - minimum, in one operation.
template <int kSteps>
struct WithMinimum {
  static constexpr bool kHasMinimum = true;
  static constexpr int kOrigin = 0;
  struct Factors {
    __half2 factor, offset;
  };
  static __device__ __forceinline__ Factors factors_of(const Scale& scale) {
    const float factor = kSteps * scale.scale;
    return {__float2half2_rn(factor), __float2half2_rn(-scale.minimum - factor)};
  }
  static __device__ __forceinline__ uint32_t weights(uint32_t pair, const Factors& factors) {
    return bits_of(__hfma2(half2_of(pair), factors.factor, factors.offset));
  }
};
// weight = kSteps * scale * (pair - kMiddle): the difference is exact.
template <int kSteps>
struct WithoutMinimum {
  static constexpr bool kHasMinimum = false;
  struct Factors {
    __half2 factor;
  };
  static __device__ __forceinline__ Factors factors_of(const Scale& scale) {
    return {__float2half2_rn(kSteps * scale.scale)};
  }
  static __device__ __forceinline__ uint32_t weights(uint32_t pair, const Factors& factors, uint32_t middle) {
    return bits_of(__hmul2(__hsub2(half2_of(pair), half2_of(middle)), factors.factor));
  }
};
inline constexpr uint32_t kOneAndHalf = 0x3E003E00u;  // two f16 of 1.5
inline constexpr uint32_t k1152 = 0x64806480u;        // two of 1152

// Q4_K's and Q5_K's: d, dmin, and the bits of each lane.
__device__ __forceinline__ void six_bit_scale(const uint8_t* heads, int row, int p, int h, Scale (&out)[1]) {
  const uint4 words = load<uint4>(heads + 16 * row);
  const float d = half_value(words.x & 0xFFFFu), d_base = -kWholeBase * d;
  const float minimum = half_value(words.x >> 16), minimum_base = -kWholeBase * minimum;
  const uint32_t third = 4u + static_cast<uint32_t>(p);
  const uint32_t two = __byte_perm(words.y, words.z, static_cast<uint32_t>(p) | third << 4);
  const uint32_t bits = __byte_perm(two, words.w, 0x0010u | third << 8) >> (12 * h);
  // d * number is exact: 11 and 6 bits.
  out[0] = {fmaf(d, based_bits(bits, 0, 63), d_base), fmaf(minimum, based_bits(bits, 6, 63), minimum_base)};
}
// The same as f16: {16 d scale, -(dmin minimum)} in one go. kSteps d is exact.
template <int kSteps>
__device__ __forceinline__ typename WithMinimum<kSteps>::Factors six_bit_factors(const uint8_t* heads,
                                                                                 int row, int p, int h) {
  const uint4 words = load<uint4>(heads + 16 * row);
  const uint32_t third = 4u + static_cast<uint32_t>(p);
  const uint32_t two = __byte_perm(words.y, words.z, static_cast<uint32_t>(p) | third << 4);
  const uint32_t bits = __byte_perm(two, words.w, 0x0010u | third << 8) >> (12 * h);
  // {1024 + scale, 1024 + minimum}
  const uint32_t based = (bits & 63u) | (bits << 10 & 0x003F0000u) | 0x64006400u;
  const __half2 wholes = __hsub2(half2_of(based), half2_of(0x64006400u));
  const __half2 d = __hmul2(half2_of(words.x), __floats2half2_rn(kSteps, -1.0f));
  const __half2 both = __hmul2(wholes, d);
  const __half2 factor = __low2half2(both);
  return {factor, __hsub2(__high2half2(both), factor)};
}
// Q6_K's and Q3_K's: 16 signed scales stored as scale + 128, then d.
__device__ __forceinline__ void signed_scales(const uint8_t* heads, int row, int p, int h, Scale (&out)[2]) {
  const uint32_t word = load<uint32_t>(heads + 16 * row + 4 * p) >> (16 * h);
  const uint32_t both = load<uint32_t>(heads + 16 * kTileRows + 4 * (row % 8));
  const float d = half_value(row < 8 ? both & 0xFFFFu : both >> 16);
#pragma unroll
  for (int group = 0; group < 2; ++group)
    out[group] = {d * (based_byte(word, group) - (kWholeBase + 128.0f)), 0.0f};
}
// One f16 per 32 columns.
__device__ __forceinline__ void half_scale(const uint8_t* heads, int row, int p, int h, Scale (&out)[1]) {
  out[0] = {half_value(load<uint16_t>(heads + 16 * row + 4 * p + 2 * h)), 0.0f};
}

// Factors by way of the scales in fp32.
template <typename Format>
__device__ __forceinline__ void factors_by_scales(const uint8_t* tile, int row, int p, int h,
                                                  typename Format::Factors (&out)[Format::kGroups]) {
  Scale scales[Format::kGroups];
  Format::scales(tile, row, p, h, scales);
#pragma unroll
  for (int group = 0; group < Format::kGroups; ++group) out[group] = Format::factors_of(scales[group]);
}

}  // namespace format_detail

struct FormatQ4K : format_detail::WithMinimum<16> {
  static constexpr DType kDType = DType::kQ4_K;
  static constexpr int kBytes = placed_tile_bytes(kDType), kGroups = 1, kByteSteps = 4;
  using Unit = format_detail::Nibbles;
  static __device__ __forceinline__ Unit unit(const uint8_t* tile, int lane, int u) {
    return format_detail::load_nibbles(tile, lane, u);
  }
  static __device__ __forceinline__ uint32_t pair(const Unit& unit, int r, int i) {
    return format_detail::nibbles<nibble_destination(kDType)>(unit.word[2 * r + i / 4], i % 4);
  }
  static __device__ __forceinline__ uint32_t bytes(const Unit& unit, int r, int s) {
    return format_detail::nibble_bytes<nibble_destination(kDType)>(unit.word[2 * r + s / 2], s);
  }
  static __device__ __forceinline__ float2 whole(uint32_t pair) {
    return format_detail::whole_of<16, 0>(pair);
  }
  static __device__ __forceinline__ void scales(const uint8_t* tile, int row, int p, int h,
                                                Scale (&out)[kGroups]) {
    format_detail::six_bit_scale(tile + 2048, row, p, h, out);
  }
  static __device__ __forceinline__ void factors(const uint8_t* tile, int row, int p, int h,
                                                 Factors (&out)[kGroups]) {
    out[0] = format_detail::six_bit_factors<16>(tile + 2048, row, p, h);
  }
};

struct FormatQ5K : format_detail::WithMinimum<32> {
  static constexpr DType kDType = DType::kQ5_K;
  static constexpr int kBytes = placed_tile_bytes(kDType), kGroups = 1, kByteSteps = 2;
  struct Unit {
    format_detail::Nibbles low;
    uint32_t fifth;
  };
  static __device__ __forceinline__ Unit unit(const uint8_t* tile, int lane, int u) {
    return {format_detail::load_nibbles(tile, lane, u),
            format_detail::load<uint32_t>(tile + 2048 + 128 * u + 4 * lane)};
  }
  static __device__ __forceinline__ uint32_t pair(const Unit& unit, int r, int i) {
    return format_detail::add_one_bit(
        unit.fifth, r, i, 9,
        format_detail::nibbles<nibble_destination(kDType)>(unit.low.word[2 * r + i / 4], i % 4));
  }
  static __device__ __forceinline__ uint32_t bytes(const Unit& unit, int r, int s) {
    return format_detail::add_one_bit_bytes(
        unit.fifth, r, s, 5,
        format_detail::nibble_bytes<nibble_destination(kDType)>(unit.low.word[2 * r + s / 2], s));
  }
  static __device__ __forceinline__ float2 whole(uint32_t pair) {
    return format_detail::whole_of<32, 0>(pair);
  }
  static __device__ __forceinline__ void scales(const uint8_t* tile, int row, int p, int h,
                                                Scale (&out)[kGroups]) {
    format_detail::six_bit_scale(tile + 2560, row, p, h, out);
  }
  static __device__ __forceinline__ void factors(const uint8_t* tile, int row, int p, int h,
                                                 Factors (&out)[kGroups]) {
    out[0] = format_detail::six_bit_factors<32>(tile + 2560, row, p, h);
  }
};

struct FormatQ6K : format_detail::WithoutMinimum<64> {
  static constexpr DType kDType = DType::kQ6_K;
  static constexpr int kBytes = placed_tile_bytes(kDType), kGroups = 2, kByteSteps = 1;
  static constexpr int kOrigin = 32;
  struct Unit {
    format_detail::Nibbles low;
    format_detail::TwoBits upper;
  };
  static __device__ __forceinline__ Unit unit(const uint8_t* tile, int lane, int u) {
    return {format_detail::load_nibbles(tile, lane, u), format_detail::load_two_bits(tile + 2048, lane, u)};
  }
  static __device__ __forceinline__ uint32_t pair(const Unit& unit, int r, int i) {
    return format_detail::add_two_bits(
        unit.upper.word[r], i, 8,
        format_detail::nibbles<nibble_destination(kDType)>(unit.low.word[2 * r + i / 4], i % 4));
  }
  static __device__ __forceinline__ uint32_t bytes(const Unit& unit, int r, int s) {
    return format_detail::add_two_bit_bytes(
        unit.upper.word[r], s, 4,
        format_detail::nibble_bytes<nibble_destination(kDType)>(unit.low.word[2 * r + s / 2], s));
  }
  static __device__ __forceinline__ float2 whole(uint32_t pair) {
    return format_detail::whole_of<64, 32>(pair);
  }
  static __device__ __forceinline__ uint32_t weights(uint32_t pair, const Factors& factors) {
    return WithoutMinimum::weights(pair, factors, format_detail::kOneAndHalf);
  }
  static __device__ __forceinline__ void scales(const uint8_t* tile, int row, int p, int h,
                                                Scale (&out)[kGroups]) {
    format_detail::signed_scales(tile + 3072, row, p, h, out);
  }
  static __device__ __forceinline__ void factors(const uint8_t* tile, int row, int p, int h,
                                                 Factors (&out)[kGroups]) {
    format_detail::factors_by_scales<FormatQ6K>(tile, row, p, h, out);
  }
};

struct FormatQ3K : format_detail::WithoutMinimum<8> {
  static constexpr DType kDType = DType::kQ3_K;
  static constexpr int kBytes = placed_tile_bytes(kDType), kGroups = 2, kByteSteps = 1;
  static constexpr int kOrigin = 4;
  struct Unit {
    format_detail::TwoBits low;
    uint32_t third;
  };
  static __device__ __forceinline__ Unit unit(const uint8_t* tile, int lane, int u) {
    return {format_detail::load_two_bits(tile, lane, u),
            format_detail::load<uint32_t>(tile + 1024 + 128 * u + 4 * lane)};
  }
  static __device__ __forceinline__ uint32_t pair(const Unit& unit, int r, int i) {
    return format_detail::add_one_bit(
        unit.third, r, i, 9, format_detail::add_two_bits(unit.low.word[r], i, 7, format_detail::kOnes));
  }
  static __device__ __forceinline__ uint32_t bytes(const Unit& unit, int r, int s) {
    return format_detail::add_one_bit_bytes(unit.third, r, s, 2,
                                            format_detail::add_two_bit_bytes(unit.low.word[r], s, 0, 0));
  }
  static __device__ __forceinline__ float2 whole(uint32_t pair) {
    return format_detail::whole_of<8, 4>(pair);
  }
  static __device__ __forceinline__ uint32_t weights(uint32_t pair, const Factors& factors) {
    return WithoutMinimum::weights(pair, factors, format_detail::kOneAndHalf);
  }
  static __device__ __forceinline__ void scales(const uint8_t* tile, int row, int p, int h,
                                                Scale (&out)[kGroups]) {
    format_detail::signed_scales(tile + 1536, row, p, h, out);
  }
  static __device__ __forceinline__ void factors(const uint8_t* tile, int row, int p, int h,
                                                 Factors (&out)[kGroups]) {
    format_detail::factors_by_scales<FormatQ3K>(tile, row, p, h, out);
  }
};

struct FormatQ2K : format_detail::WithMinimum<4> {
  static constexpr DType kDType = DType::kQ2_K;
  static constexpr int kBytes = placed_tile_bytes(kDType), kGroups = 2, kByteSteps = 1;
  using Unit = format_detail::TwoBits;
  static __device__ __forceinline__ Unit unit(const uint8_t* tile, int lane, int u) {
    return format_detail::load_two_bits(tile, lane, u);
  }
  static __device__ __forceinline__ uint32_t pair(const Unit& unit, int r, int i) {
    return format_detail::add_two_bits(unit.word[r], i, 8, format_detail::kOnes);
  }
  static __device__ __forceinline__ uint32_t bytes(const Unit& unit, int r, int s) {
    return format_detail::add_two_bit_bytes(unit.word[r], s, 0, 0);
  }
  static __device__ __forceinline__ float2 whole(uint32_t pair) {
    return format_detail::whole_of<4, 0>(pair);
  }
  static __device__ __forceinline__ void scales(const uint8_t* tile, int row, int p, int h,
                                                Scale (&out)[kGroups]) {
    const uint32_t both = format_detail::load<uint32_t>(tile + 1024 + 16 * row + 4 * p) >> (16 * h);
    const uint32_t factors = format_detail::load<uint32_t>(tile + 1280 + 4 * row);
    const float d = format_detail::half_value(factors & 0xFFFFu);
    const float minimum = format_detail::half_value(factors >> 16);
#pragma unroll
    for (int group = 0; group < 2; ++group)
      out[group] = {fmaf(d, format_detail::based_bits(both, 8 * group, 15), -format_detail::kWholeBase * d),
                    fmaf(minimum, format_detail::based_bits(both, 8 * group + 4, 15),
                         -format_detail::kWholeBase * minimum)};
  }
  static __device__ __forceinline__ void factors(const uint8_t* tile, int row, int p, int h,
                                                 Factors (&out)[kGroups]) {
    format_detail::factors_by_scales<FormatQ2K>(tile, row, p, h, out);
  }
};

struct FormatQ8_0 : format_detail::WithoutMinimum<1> {
  static constexpr DType kDType = DType::kQ8_0;
  static constexpr int kBytes = placed_tile_bytes(kDType), kGroups = 1, kByteSteps = 1;
  static constexpr int kOrigin = 128;
  struct Unit {
    uint32_t word[2][4];
  };
  static __device__ __forceinline__ Unit unit(const uint8_t* tile, int lane, int u) {
    Unit unit;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint4 words = format_detail::load<uint4>(tile + 512 * (2 * u + r) + 16 * lane);
      unit.word[r][0] = words.x, unit.word[r][1] = words.y;
      unit.word[r][2] = words.z, unit.word[r][3] = words.w;
    }
    return unit;
  }
  // 1024 + value + 128
  static __device__ __forceinline__ uint32_t pair(const Unit& unit, int r, int i) {
    const int f = i % 4, word = 2 * (i / 4) + (f == 0 || f == 3 ? 1 : 0);
    return __byte_perm(unit.word[r][word], 0x64646464u, f < 2 ? 0x4240 : f == 2 ? 0x4341 : 0x4143);
  }
  static __device__ __forceinline__ uint32_t bytes(const Unit& unit, int r, int s) { return unit.word[r][s]; }
  static __device__ __forceinline__ float2 whole(uint32_t pair) {
    const float2 based = unpack_f16(pair);
    return make_float2(based.x - 1152.0f, based.y - 1152.0f);
  }
  static __device__ __forceinline__ uint32_t weights(uint32_t pair, const Factors& factors) {
    return WithoutMinimum::weights(pair, factors, format_detail::k1152);
  }
  static __device__ __forceinline__ void scales(const uint8_t* tile, int row, int p, int h,
                                                Scale (&out)[kGroups]) {
    format_detail::half_scale(tile + 4096, row, p, h, out);
  }
  static __device__ __forceinline__ void factors(const uint8_t* tile, int row, int p, int h,
                                                 Factors (&out)[kGroups]) {
    format_detail::factors_by_scales<FormatQ8_0>(tile, row, p, h, out);
  }
};

struct FormatQ4_0 : format_detail::WithoutMinimum<16> {
  static constexpr DType kDType = DType::kQ4_0;
  static constexpr int kBytes = placed_tile_bytes(kDType), kGroups = 1, kByteSteps = 4;
  static constexpr int kOrigin = 8;
  using Unit = format_detail::Nibbles;
  static __device__ __forceinline__ Unit unit(const uint8_t* tile, int lane, int u) {
    return format_detail::load_nibbles(tile, lane, u);
  }
  static __device__ __forceinline__ uint32_t pair(const Unit& unit, int r, int i) {
    return format_detail::nibbles<nibble_destination(kDType)>(unit.word[2 * r + i / 4], i % 4);
  }
  static __device__ __forceinline__ uint32_t bytes(const Unit& unit, int r, int s) {
    return format_detail::nibble_bytes<nibble_destination(kDType)>(unit.word[2 * r + s / 2], s);
  }
  static __device__ __forceinline__ float2 whole(uint32_t pair) {
    return format_detail::whole_of<16, 8>(pair);
  }
  static __device__ __forceinline__ uint32_t weights(uint32_t pair, const Factors& factors) {
    return WithoutMinimum::weights(pair, factors, format_detail::kOneAndHalf);
  }
  static __device__ __forceinline__ void scales(const uint8_t* tile, int row, int p, int h,
                                                Scale (&out)[kGroups]) {
    format_detail::half_scale(tile + 2048, row, p, h, out);
  }
  static __device__ __forceinline__ void factors(const uint8_t* tile, int row, int p, int h,
                                                 Factors (&out)[kGroups]) {
    format_detail::factors_by_scales<FormatQ4_0>(tile, row, p, h, out);
  }
};

// The values of lane (g, p) in row g + 8 r and columns 64 p + 16 u + 8 half .. + 7 of a tile, exactly those
// of decode_weight.
template <typename Format>
__device__ __forceinline__ void decode_eight(const typename Format::Unit& unit, const Scale& scale, int half,
                                             int r, float (&values)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 whole = Format::whole(Format::pair(unit, r, 4 * half + i));
    values[2 * i] = fmaf(scale.scale, whole.x, -scale.minimum);
    values[2 * i + 1] = fmaf(scale.scale, whole.y, -scale.minimum);
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

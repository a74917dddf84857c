// Tiles of placed weights (placed_layout.h) as operands of products of bytes.
//
// A product of m16n8k32 takes 32 columns of a tile; lane (g, p) gives of row g (and g + 8) two words whose
// bytes are its columns {h0 i0, h1 i0, h0 i1, h1 i1} and {h0 i2, h1 i2, h0 i3, h1 i3}: the order of nibbles
// in a placed word. Activations lie in the same order (few_token_integer_input.cuh).
//
// Unused columns of the product: with 8 / kSpread tokens, column (8 / kSpread) e + t is token t with the
// units of columns (those of one scale) whose index is e modulo kSpread, and zeros elsewhere. So the products
// of kSpread units add up in one accumulator of which each lane scales its own four numbers.
//
// A format has:
//   kUnits               scales per 32 columns: 1 or 2 (one for each h)
//   kValueBias           what is taken off every value; bytes of -kValueBias are a product of their own
//   Loaded               a lane's bits of a tile, in registers
//   load_chunk, load_scales   into them, from global memory
//   operands             of 32 columns
//   Scales<kSpread>      what the lane scales with
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/placed_formats.cuh"

namespace onggi::cuda {

// Which scales a lane needs: its columns 2 p and 2 p + 1 of an accumulator of kSpread units.
template <int kSpread>
struct ScaleChoice {
  int pair;
  // Of the words of four scales of all units those with the lane's: kKept of kWords.
  template <int kWords>
  static constexpr int kKept = kSpread == 8 ? kWords / 2 : kWords;
  template <int kWords>
  __device__ __forceinline__ void keep(const uint32_t (&words)[kWords],
                                       uint32_t (&kept)[kKept<kWords>]) const {
#pragma unroll
    for (int i = 0; i < kKept<kWords>; ++i)
      kept[i] = kSpread == 8 ? (pair < 2 ? words[2 * i] : words[2 * i + 1]) : words[i];
  }
  // 2^23 + the scale of accumulator i for column 2 p + j.
  template <int kCount>
  __device__ __forceinline__ float based(const uint32_t (&kept)[kCount], int i, int j) const {
    if constexpr (kSpread == 8) return format_detail::based_byte(kept[i], 2 * (pair & 1) + j);
    if constexpr (kSpread == 4) return format_detail::based_byte(kept[i], pair);
    if constexpr (kSpread == 2) return format_detail::based_byte(kept[i / 2], 2 * (i % 2) + pair / 2);
    return format_detail::based_byte(kept[i / 4], i % 4);
  }
};

struct IntegerQ4K {
  static constexpr DType kDType = DType::kQ4_K;
  static constexpr int kBytes = placed_tile(kDType).bytes, kUnits = 1, kValueBias = 0;
  static constexpr bool kHasMinimums = true;
  struct Loaded {
    uint4 words[4];
    uint4 heads[2];
  };
  static __device__ __forceinline__ void load_chunk(Loaded& tile, const uint8_t* from, int j) {
    tile.words[j] = load_once_16(from + 512 * j + 16 * lane_index());
  }
  static __device__ __forceinline__ void load_scales(Loaded& tile, const uint8_t* from) {
    const uint8_t* heads = from + 2048 + 16 * (lane_index() / 4);
    tile.heads[0] = load_once_16(heads);
    tile.heads[1] = load_once_16(heads + 128);
  }
  static __device__ __forceinline__ void operands(const Loaded& tile, int j, int c, uint32_t (&a)[4]) {
    const uint32_t first = c == 0 ? tile.words[j].x : tile.words[j].z;
    const uint32_t second = c == 0 ? tile.words[j].y : tile.words[j].w;
    a[0] = first & 0x0F0F0F0Fu;
    a[1] = second & 0x0F0F0F0Fu;
    a[2] = first >> 4 & 0x0F0F0F0Fu;
    a[3] = second >> 4 & 0x0F0F0F0Fu;
  }

  template <int kSpread>
  struct Scales {
    static constexpr int kKept = ScaleChoice<kSpread>::template kKept<2>;
    float d[2], minimum[2];
    uint32_t scales[2][kKept], minimums[2][kKept];

    __device__ __forceinline__ Scales(const Loaded& tile, const ScaleChoice<kSpread>& choice) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint4& head = tile.heads[r];
        d[r] = format_detail::half_value(head.x & 0xFFFFu);
        minimum[r] = format_detail::half_value(head.x >> 16);
        const uint32_t both[2] = {head.y & 0x3F3F3F3Fu, (head.w & 0x0F0F0F0Fu) | (head.y >> 2 & 0x30303030u)};
        const uint32_t lows[2] = {head.z & 0x3F3F3F3Fu,
                                  (head.w >> 4 & 0x0F0F0F0Fu) | (head.z >> 2 & 0x30303030u)};
        choice.keep(both, scales[r]);
        choice.keep(lows, minimums[r]);
      }
    }
    __device__ __forceinline__ float scale(const ScaleChoice<kSpread>& choice, int r, int i, int j) const {
      return choice.based(scales[r], i, j) - format_detail::kByteBase;
    }
    __device__ __forceinline__ float low(const ScaleChoice<kSpread>& choice, int r, int i, int j) const {
      return choice.based(minimums[r], i, j) - format_detail::kByteBase;
    }
  };
};

struct IntegerQ6K {
  static constexpr DType kDType = DType::kQ6_K;
  static constexpr int kBytes = placed_tile(kDType).bytes, kUnits = 2, kValueBias = 32;
  static constexpr bool kHasMinimums = false;
  struct Loaded {
    uint4 words[4];
    uint2 upper[4];
    uint4 heads[2];
    uint32_t d;
  };
  static __device__ __forceinline__ void load_chunk(Loaded& tile, const uint8_t* from, int j) {
    tile.words[j] = load_once_16(from + 512 * j + 16 * lane_index());
    tile.upper[j] = load_once_8(from + 2048 + 256 * j + 8 * lane_index());
  }
  static __device__ __forceinline__ void load_scales(Loaded& tile, const uint8_t* from) {
    const int group = lane_index() / 4;
    tile.heads[0] = load_once_16(from + 3072 + 16 * group);
    tile.heads[1] = load_once_16(from + 3072 + 16 * group + 128);
    tile.d = load_once_4(from + 3072 + 256 + 4 * group);
  }
  // Pairs q and q + 2 of the upper bits, moved to bits 4 and 12.
  static __device__ __forceinline__ uint32_t upper_bits(uint32_t word, int r, int q) {
    return format_detail::two_bits(word, q + 4 * r, 4) | format_detail::two_bits(word, q + 2 + 4 * r, 12);
  }
  static __device__ __forceinline__ void operands(const Loaded& tile, int j, int c, uint32_t (&a)[4]) {
    const uint32_t low[2] = {c == 0 ? tile.words[j].x : tile.words[j].z,
                             c == 0 ? tile.words[j].y : tile.words[j].w};
    const uint32_t upper = c == 0 ? tile.upper[j].x : tile.upper[j].y;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      a[r] = (low[r] & 0x0F0F0F0Fu) | upper_bits(upper, r, 0);
      a[2 + r] = (low[r] >> 4 & 0x0F0F0F0Fu) | upper_bits(upper, r, 1);
    }
  }

  template <int kSpread>
  struct Scales {
    static constexpr int kKept = ScaleChoice<kSpread>::template kKept<4>;
    float d[2];
    uint32_t scales[2][kKept];

    __device__ __forceinline__ Scales(const Loaded& tile, const ScaleChoice<kSpread>& choice) {
      d[0] = format_detail::half_value(tile.d & 0xFFFFu);
      d[1] = format_detail::half_value(tile.d >> 16);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint32_t words[4] = {tile.heads[r].x, tile.heads[r].y, tile.heads[r].z, tile.heads[r].w};
        choice.keep(words, scales[r]);
      }
    }
    __device__ __forceinline__ float scale(const ScaleChoice<kSpread>& choice, int r, int i, int j) const {
      return choice.based(scales[r], i, j) - (format_detail::kByteBase + 128.0f);
    }
  };
};

}  // namespace onggi::cuda

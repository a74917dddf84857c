// The second half of adapters, scale u B^T, where a warp has the sums of 16 rows for 8 tokens as mma's D:
// tf32 products, whose rounding is that of the weights' operands.
#pragma once

#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/placed_layout.h"

namespace onggi::cuda {

inline constexpr int kRanksTogether = 16;  // of two products

// Four neighbouring values of a row of `rank`, zeros beyond its end. Rows of whole fours are aligned.
__device__ __forceinline__ float4 load_four_ranks(const float* row, int rank, int first) {
  if (rank % 4 == 0)
    return first < rank ? *reinterpret_cast<const float4*>(row + first) : make_float4(0, 0, 0, 0);
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = first + i < rank ? row[first + i] : 0.0f;
  return make_float4(values[0], values[1], values[2], values[3]);
}

// scale * B of a tile's rows for the ranks from `first` on, as A of two products. Lane (g, p) has ranks 4 p
// to 4 p + 3: their order is any that both operands have.
struct AdapterRows {
  uint32_t a[2][4];
  __device__ __forceinline__ AdapterRows(const FewTokenMember& member, int tile, int first) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = kTileRows * tile + lane_index() / 4 + 8 * i;
      float4 b = make_float4(0, 0, 0, 0);
      if (row < member.rows)
        b = load_four_ranks(member.lora_b + static_cast<int64_t>(row) * member.rank, member.rank,
                            first + 4 * (lane_index() % 4));
      a[0][i] = round_to_tf32(member.lora_scale * b.x);
      a[0][2 + i] = round_to_tf32(member.lora_scale * b.y);
      a[1][i] = round_to_tf32(member.lora_scale * b.z);
      a[1][2 + i] = round_to_tf32(member.lora_scale * b.w);
    }
  }
};

// u of the lane's token (of the eight from first_token on) for the ranks from `first` on, as B of two
// products, and in the units of the operands' sums. Tokens that are not there repeat one that is.
struct AdapterInput {
  uint32_t b[2][2];
  __device__ __forceinline__ AdapterInput(const FewTokenParams& p, const FewTokenMember& member,
                                          int first_token, int first) {
    const int token = min(first_token + lane_index() / 4, p.tokens - 1);
    const float4 u = load_four_ranks(member.lora_u + static_cast<int64_t>(token) * member.rank, member.rank,
                                     first + 4 * (lane_index() % 4));
    // Below 2^-120 activations are nothing.
    const float factor = p.factors[token], inverse = factor > 0x1p-120f ? __fdividef(1.0f, factor) : 0.0f;
    b[0][0] = round_to_tf32(inverse * u.x);
    b[0][1] = round_to_tf32(inverse * u.y);
    b[1][0] = round_to_tf32(inverse * u.z);
    b[1][1] = round_to_tf32(inverse * u.w);
  }
};

__device__ __forceinline__ void add_adapter(const AdapterRows& rows, const AdapterInput& u,
                                            float (&sums)[4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) mma_m16n8k8_tf32(sums, rows.a[i], u.b[i][0], u.b[i][1]);
}

// Adds the adapter's part to the sums of a tile of rows for all tokens, eight a turn. Of `turns` slices each
// does the eights that have its turn.
template <int kEights>
__device__ __forceinline__ void add_adapter_eights(const FewTokenParams& p, const FewTokenMember& member,
                                                   int tile, int turn, int turns, float (&sums)[kEights][4]) {
#pragma unroll 1
  for (int first = 0; first < member.rank; first += kRanksTogether) {
    const AdapterRows rows(member, tile, first);
    int until = turn;
#pragma unroll
    for (int n = 0; n < kEights; ++n) {
      if (until == 0) add_adapter(rows, AdapterInput(p, member, 8 * n, first), sums[n]);
      until = until == 0 ? turns - 1 : until - 1;
    }
  }
}

// Brings the rows of B of a tile near.
__device__ __forceinline__ void prefetch_adapter_rows(const FewTokenMember& member, int tile) {
  const int row = kTileRows * tile + lane_index() % kTileRows;
  if (row >= member.rows) return;
  const float* b = member.lora_b + static_cast<int64_t>(row) * member.rank;
#pragma unroll 1
  for (int r = 32 * (lane_index() / kTileRows); r < member.rank; r += 64) prefetch_l2(b + r);
}

}  // namespace onggi::cuda

// Products of few tokens in fp32, for any dtype and shape: the reference on the card, and what takes weights
// whose rows the tensor core kernel cannot read. A block has 16 rows and four tokens; its warps share the
// columns, and lanes lie as in placed_layout.h.
#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/placed_formats.cuh"

namespace onggi::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kTokens = 4;

// sums[r][t] += of the columns k + (0..3) and k + 16 + (0..3)
__device__ __forceinline__ void add_products(const FewTokenParams& p, int first_token, int k,
                                             const float (&first)[8], const float (&second)[8],
                                             float (&sums)[2][kTokens]) {
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (first_token + t >= p.tokens) break;
    const int64_t at = (first_token + t) * p.x_stride;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int column = k + 16 * (i / 4) + i % 4;
      if (column >= p.columns) continue;
      const float x = load_activation(p.x, p.x_is_bf16, at + column);
      sums[0][t] = fmaf(first[i], x, sums[0][t]);
      sums[1][t] = fmaf(second[i], x, sums[1][t]);
    }
  }
}

template <typename Format>
__device__ void multiply_placed(const FewTokenParams& p, const FewTokenMember& member, int tile,
                                int first_token, float (&sums)[2][kTokens]) {
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  const int across = (p.columns + Format::kColumns - 1) / Format::kColumns;
  for (int column_tile = warp_index(); column_tile < across; column_tile += kWarps) {
    const uint8_t* at = member.data + (static_cast<int64_t>(tile) * across + column_tile) * Format::kBytes;
    const typename Format::Row rows[2] = {Format::row(at, group), Format::row(at, group + 8)};
#pragma unroll
    for (int s = 0; s < Format::kColumns / 32; ++s) {
      const typename Format::Chunk chunk = Format::chunk(at, lane, s / 2);
      float first[8], second[8];
      decode_group<Format>(chunk, rows[0], s, 0, first);
      decode_group<Format>(chunk, rows[1], s, 1, second);
      add_products(p, first_token, Format::kColumns * column_tile + 32 * s + 4 * pair, first, second, sums);
    }
  }
}

// Element [row, column] of a row-major weight.
__device__ __forceinline__ float plain_value(const FewTokenParams& p, const FewTokenMember& member, int row,
                                             int column) {
  const int64_t at = static_cast<int64_t>(row) * p.columns + column;
  switch (member.dtype) {
    case DType::kF32:
      return reinterpret_cast<const float*>(member.data)[at];
    case DType::kF16:
      return load_f32(reinterpret_cast<const Half*>(member.data) + at);
    case DType::kBF16:
      return load_f32(reinterpret_cast<const BFloat16*>(member.data) + at);
    default: {
      const int64_t block = at / 64;
      const uint8_t byte = member.data[at / 2];
      const float absmax =
          __fadd_rn(__fmul_rn(p.nf4_tables[16 + member.nf4_absmax[block]], member.nf4_nested[block / 256]),
                    member.nf4_offset);
      return p.nf4_tables[(at % 2 == 0 ? byte >> 4 : byte & 15)] * absmax;
    }
  }
}

__device__ void multiply_plain(const FewTokenParams& p, const FewTokenMember& member, int tile,
                               int first_token, float (&sums)[2][kTokens]) {
  const int lane = lane_index(), group = lane / 4, pair = lane % 4;
  // Rows beyond N repeat the last one: nobody reads their sums.
  const int rows[2] = {min(kTileRows * tile + group, member.rows - 1),
                       min(kTileRows * tile + group + 8, member.rows - 1)};
  for (int k = 32 * warp_index() + 4 * pair; k < p.columns; k += 32 * kWarps) {
    float values[2][8];
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int column = k + 16 * (i / 4) + i % 4;
        values[r][i] = column < p.columns ? plain_value(p, member, rows[r], column) : 0.0f;
      }
    add_products(p, first_token, k, values[0], values[1], sums);
  }
}

__global__ void __launch_bounds__(kWarps* kWarp) exact_kernel(const __grid_constant__ FewTokenParams p) {
  __shared__ float partials[kWarps][kTileRows][kTokens];
  const int first_token = kTokens * static_cast<int>(blockIdx.y);
  int tile = static_cast<int>(blockIdx.x), index = 0;
  while (tile >= p.members[index].tiles) tile -= p.members[index++].tiles;
  const FewTokenMember& member = p.members[index];
  float sums[2][kTokens] = {};
  switch (member.dtype) {
    case DType::kQ4_K:
      multiply_placed<FormatQ4K>(p, member, tile, first_token, sums);
      break;
    case DType::kQ5_K:
      multiply_placed<FormatQ5K>(p, member, tile, first_token, sums);
      break;
    case DType::kQ6_K:
      multiply_placed<FormatQ6K>(p, member, tile, first_token, sums);
      break;
    case DType::kQ8_0:
      multiply_placed<FormatQ8_0>(p, member, tile, first_token, sums);
      break;
    case DType::kQ4_0:
      multiply_placed<FormatQ4_0>(p, member, tile, first_token, sums);
      break;
    case DType::kQ3_K:
      multiply_placed<FormatQ3K>(p, member, tile, first_token, sums);
      break;
    case DType::kQ2_K:
      multiply_placed<FormatQ2K>(p, member, tile, first_token, sums);
      break;
    default:
      multiply_plain(p, member, tile, first_token, sums);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float sum = warp_sum<4>(sums[r][t]);
      if (lane_index() % 4 == 0) partials[warp_index()][lane_index() / 4 + 8 * r][t] = sum;
    }
  __syncthreads();
  if (threadIdx.x >= kTileRows * kTokens) return;
  const int row_in_tile = threadIdx.x % kTileRows, token = threadIdx.x / kTileRows;
  const int row = kTileRows * tile + row_in_tile;
  if (row >= member.rows || first_token + token >= p.tokens) return;
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) sum += partials[warp][row_in_tile][token];
  store_output(p, member, row, first_token + token, sum);
}

}  // namespace

void launch_few_token_exact(CudaStream& stream, const FewTokenParams& params) {
  int tiles = 0;
  for (int i = 0; i < params.member_count; ++i) tiles += params.members[i].tiles;
  launch(stream, "few_token_exact",
         {.grid = dim3(static_cast<unsigned>(tiles), blocks_for(params.tokens, kTokens)),
          .block = kWarps * kWarp},
         exact_kernel, params);
}

}  // namespace onggi::cuda

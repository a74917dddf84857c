// What the kernels behind few_token.h share: their arguments and the last steps of an output.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/ops/linear.h"

namespace onggi::cuda {

struct FewTokenMember {
  const uint8_t* data;
  const uint8_t* nf4_absmax;
  const float* nf4_nested;
  float nf4_offset;
  DType dtype;
  int rows;       // N
  int tiles;      // of 16 rows
  int first_row;  // of its rows, padded to tiles, among those of all members
  int rank;       // 0: no adapter
  float lora_scale;
  const float* lora_b;  // f32 [N, R]
  const float* lora_u;  // f32 [T, R]
  void* out;            // [T, N]
};

// Neighbouring members of one dtype, whose tiles a kernel takes in one go.
struct FewTokenRun {
  DType dtype;
  int first_member;
  int tiles;       // of all its members
  int first_step;  // a step is row_warps tiles
};

enum class Activate : uint8_t { kNo, kGate };  // kGate: out = silu(member 0) * member 1

// Where things lie in shared memory, bytes from its start.
struct FewTokenShared {
  int zeros, sums, squares, inverse_rms, partials, code, ring;
  int ring_slot;   // bytes of one tile in the ring
  int ring_slots;  // tiles of a warp's ring: 2 to 4
  int total;
};

struct FewTokenParams {
  const void* x;  // [T, K], rows x_stride elements apart
  int64_t x_stride;
  const float* norm;  // f32 [K] or null
  float epsilon;
  bool x_is_bf16, x_has_vectors;  // rows aligned to 16 bytes
  bool out_is_bf16;
  // The kernel before is few_token_lora_input, which starts this one after what wrote x was done: x may be
  // read at once, and the wait comes before the outputs.
  bool waits_late;
  Activate activate;
  int tokens, columns;  // T, K
  int member_count, run_count, steps;
  FewTokenMember members[kMaxLinearGroup];
  FewTokenRun runs[kMaxLinearGroup];
  // K is cut into slices, one for each blockIdx.y; the warps of a block are row_warps by column_warps.
  int slice_columns, row_warps, column_warps;
  FewTokenShared shared;
  const void* residual;  // [T, N] or null
  void* gated_out;       // [T, F], rows gated_stride apart
  int64_t gated_stride;
  float* partials;       // f32 [part][T][partial_rows], or null where the kernel finishes the outputs
  int64_t partial_rows;  // rows of all members, padded to tiles
  int partial_count;
  const float* nf4_tables;  // of nf4_tables.h
};

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

// scale * (u B^T) of one output.
__device__ __forceinline__ float lora_term(const FewTokenMember& member, int row, int token) {
  const float* b = member.lora_b + static_cast<int64_t>(row) * member.rank;
  const float* u = member.lora_u + static_cast<int64_t>(token) * member.rank;
  float sum = 0;
  int r = 0;
  if (member.rank % 4 == 0) {  // B's and u's rows are aligned
    for (; r < member.rank; r += 4) {
      const float4 b4 = *reinterpret_cast<const float4*>(b + r);
      const float4 u4 = *reinterpret_cast<const float4*>(u + r);
      sum = fmaf(b4.x, u4.x, fmaf(b4.y, u4.y, fmaf(b4.z, u4.z, fmaf(b4.w, u4.w, sum))));
    }
  }
  for (; r < member.rank; ++r) sum = fmaf(b[r], u[r], sum);
  return member.lora_scale * sum;
}

__device__ __forceinline__ float load_activation(const void* data, bool is_bf16, int64_t index) {
  return is_bf16 ? load_f32(static_cast<const BFloat16*>(data) + index)
                 : static_cast<const float*>(data)[index];
}
__device__ __forceinline__ void store_activation(void* data, bool is_bf16, int64_t index, float value) {
  if (is_bf16) {
    store_f32(static_cast<BFloat16*>(data) + index, value);
  } else {
    static_cast<float*>(data)[index] = value;
  }
}

// The output of a member's row for a token, from its product with the weight.
__device__ __forceinline__ void store_output(const FewTokenParams& p, const FewTokenMember& member, int row,
                                             int token, float product) {
  if (member.rank > 0) product += lora_term(member, row, token);
  const int64_t at = static_cast<int64_t>(token) * member.rows + row;
  if (p.residual != nullptr) product += load_activation(p.residual, p.out_is_bf16, at);
  store_activation(member.out, p.out_is_bf16, at, product);
}
__device__ __forceinline__ void store_gated(const FewTokenParams& p, int row, int token, float gate,
                                            float up) {
  if (p.members[0].rank > 0) gate += lora_term(p.members[0], row, token);
  if (p.members[1].rank > 0) up += lora_term(p.members[1], row, token);
  store_activation(p.gated_out, p.out_is_bf16, token * p.gated_stride + row, silu(gate) * up);
}

// Tile `tile` of a run: which member's, and which of its tiles. Gate and up alternate.
struct TileOwner {
  int member;
  int tile;
};
__device__ __forceinline__ TileOwner tile_owner(const FewTokenParams& p, const FewTokenRun& run, int tile) {
  if (p.activate == Activate::kGate) return {tile % 2, tile / 2};
  int member = run.first_member;
  while (tile >= p.members[member].tiles) tile -= p.members[member++].tiles;
  return {member, tile};
}

// One block's rows of the grid's plan, by the tokens that a kernel takes.
void launch_few_token_2(CudaStream& stream, const FewTokenParams& params, const LaunchShape& shape);
void launch_few_token_8(CudaStream& stream, const FewTokenParams& params, const LaunchShape& shape);
void launch_few_token_32(CudaStream& stream, const FewTokenParams& params, const LaunchShape& shape);
void launch_few_token_64(CudaStream& stream, const FewTokenParams& params, const LaunchShape& shape);
// Adds up the parts and finishes the outputs.
void launch_few_token_finish(CudaStream& stream, const FewTokenParams& params, Overlap overlap);

}  // namespace onggi::cuda

// What the kernels behind few_token.h share: their arguments and the last steps of an output.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/ops/linear.h"

namespace onggi::cuda {

constexpr int ceil_div(int n, int d) { return (n + d - 1) / d; }
constexpr int rounded_up(int n, int multiple) { return ceil_div(n, multiple) * multiple; }

// n / divisor for small n.
struct Divider {
  float inverse;
  __device__ __forceinline__ explicit Divider(int divisor) {
    inverse = __fdividef(1.0f, static_cast<float>(divisor));
  }
  __device__ __forceinline__ int quotient(int n) const {
    return static_cast<int>((static_cast<float>(n) + 0.5f) * inverse);
  }
};

struct Nf4Byte;  // nf4_tables.h

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
  const float* lora_a;  // f32 [R, K]
  const float* lora_b;  // f32 [N, R]
  const float* lora_u;  // f32 [T, R]: norm(x) A^T; where there are operands
  void* out;            // [T, N]
};

// Neighbouring members of one dtype, whose tiles a kernel takes in one go.
struct FewTokenRun {
  DType dtype;
  int first_member;
  int tiles;  // of all its members
};

enum class Activate : uint8_t { kNo, kGate };  // kGate: out = silu(member 0) * member 1

struct FewTokenParams {
  const void* x;  // [T, K], rows x_stride elements apart
  int64_t x_stride;
  const float* norm;  // f32 [K] or null
  float epsilon;
  bool x_is_bf16, x_has_vectors;  // rows aligned to 16 bytes
  bool out_is_bf16;
  Activate activate;
  int tokens, columns;  // T, K
  int column_tiles;     // of 256 columns
  int member_count, run_count;
  FewTokenMember members[kMaxLinearGroup];
  FewTokenRun runs[kMaxLinearGroup];
  const void* residual;  // [T, N] or null
  void* gated_out;       // [T, F], rows gated_stride apart
  int64_t gated_stride;
  // K may be cut into slices, one for each blockIdx.y, whose sums go to memory and are added up by
  // launch_few_token_finish.
  int slices;
  float* partials;       // f32 [slice][T][partial_rows], or null where there is one slice
  int64_t partial_rows;  // rows of all members, padded to tiles
  // What launch_few_token_inputs makes of x, in the order of place_of_column: [T, column_tiles * 256] each,
  // null where no run needs it; and f32 [T], what finished sums are multiplied by, null: 1.
  const void* f16;
  const void* bf16;
  const float* factors;
  const Nf4Byte* nf4_bytes;
};

// What operands of products are.
enum class Operands : uint8_t { kF16, kBF16 };
constexpr Operands operands_of(DType dtype) {
  return dtype == DType::kBF16 ? Operands::kBF16 : Operands::kF16;
}
// Neighbouring columns of a lane: the blocks of all dtypes are its own; plain rows are read in long
// stretches.
constexpr int lane_columns(Operands operands) { return operands == Operands::kF16 ? 64 : 32; }

// Columns of activations are kept in this order, which is what a lane (g, p) of a product needs in pieces of
// 16 bytes: with L of lane_columns, column L p + 8 s + i of each 4 L at 32 s + 8 p + i.
__device__ __forceinline__ int place_of_column(Operands operands, int column) {
  const int lane = lane_columns(operands);
  return column % 8 + 8 * (column / lane % 4) + 32 * (column / 8 % (lane / 8)) +
         column / (4 * lane) * (4 * lane);
}

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

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

// Of a member's row for a token, among its outputs.
__device__ __forceinline__ int64_t output_index(const FewTokenMember& member, int row, int token) {
  return static_cast<int64_t>(token) * member.rows + row;
}
// What is added to the output.
__device__ __forceinline__ float residual_of(const FewTokenParams& p, const FewTokenMember& member, int row,
                                             int token) {
  if (p.residual == nullptr) return 0;
  return load_activation(p.residual, p.out_is_bf16, output_index(member, row, token));
}
// Outputs from the products and the adapters' parts.
__device__ __forceinline__ void store_output(const FewTokenParams& p, const FewTokenMember& member, int row,
                                             int token, float product) {
  store_activation(member.out, p.out_is_bf16, output_index(member, row, token),
                   product + residual_of(p, member, row, token));
}
__device__ __forceinline__ void store_gated(const FewTokenParams& p, int row, int token, float gate,
                                            float up) {
  store_activation(p.gated_out, p.out_is_bf16, token * p.gated_stride + row, silu(gate) * up);
}
// A slice's sum of a padded row for a token.
__device__ __forceinline__ void store_partial(const FewTokenParams& p, const FewTokenMember& member, int row,
                                              int token, float sum) {
  p.partials[(static_cast<int64_t>(blockIdx.y) * p.tokens + token) * p.partial_rows + member.first_row +
             row] = sum;
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

// The run that a block works on: `first` is the first block of each.
__device__ __forceinline__ int run_of_block(const FewTokenParams& p, const int (&first)[kMaxLinearGroup]) {
  int index = 0;
  while (index + 1 < p.run_count && static_cast<int>(blockIdx.x) >= first[index + 1]) ++index;
  return index;
}

// The power of two that brings the largest magnitude to [2^7, 2^8), and its inverse.
struct PowerOfTwo {
  float scale, inverse;
};
__device__ __forceinline__ PowerOfTwo power_for(float largest) {
  // Below 2^-119 (or 0) as there: such activations are nothing.
  const uint32_t exponent = max(__float_as_uint(largest) >> 23, 8u);
  return {__uint_as_float((261u - exponent) << 23), __uint_as_float((exponent - 7u) << 23)};
}

// Eight columns from k on, zeros beyond K, where rows are aligned and K is a multiple of 8.
__device__ __forceinline__ void load_whole_8(const FewTokenParams& p, int token, int k, float (&values)[8]) {
  const int64_t at = token * p.x_stride + k;
#pragma unroll
  for (float& value : values) value = 0;
  if (k >= p.columns) return;
  if (p.x_is_bf16) return load_8(static_cast<const BFloat16*>(p.x) + at, values);
  load_8(static_cast<const float*>(p.x) + at, values);
}
// And anywhere.
__device__ __forceinline__ void load_input_8(const FewTokenParams& p, int token, int k, float (&values)[8]) {
  if (p.x_has_vectors && k + 8 <= p.columns) return load_whole_8(p, token, k, values);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    values[i] = k + i < p.columns ? load_activation(p.x, p.x_is_bf16, token * p.x_stride + k + i) : 0.0f;
}
// The norm's weights of eight columns, likewise.
__device__ __forceinline__ void load_whole_norm_8(const FewTokenParams& p, int k, float (&weights)[8]) {
#pragma unroll
  for (float& weight : weights) weight = 0;
  if (k < p.columns) load_8(p.norm + k, weights);
}
__device__ __forceinline__ void load_norm_8(const FewTokenParams& p, int k, float (&weights)[8]) {
  if (k + 8 <= p.columns && reinterpret_cast<uintptr_t>(p.norm) % 16 == 0)
    return load_whole_norm_8(p, k, weights);
#pragma unroll
  for (int i = 0; i < 8; ++i) weights[i] = k + i < p.columns ? p.norm[k + i] : 0.0f;
}
__device__ __forceinline__ void scale_8(float (&values)[8], const float (&weights)[8]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] *= weights[i];
}
__device__ __forceinline__ float dot_8(const float (&a)[8], const float (&b)[8]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(a[i], b[i], sum);
  return sum;
}
__device__ __forceinline__ float squares_of(const float (&values)[8]) { return dot_8(values, values); }
// A token's 1 / rms(x) from the sum of its squares; 1 without a norm.
__device__ __forceinline__ float norm_factor(const FewTokenParams& p, float square) {
  return p.norm == nullptr ? 1.0f : rsqrtf(__fdividef(square, static_cast<float>(p.columns)) + p.epsilon);
}
__device__ __forceinline__ float largest_of(const float (&values)[8]) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(values[i]));
  return largest;
}

__device__ __forceinline__ uint4 pack_operands(Operands operands, float scale, const float (&values)[8]) {
  float scaled[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) scaled[i] = scale * values[i];
  return operands == Operands::kBF16 ? pack_bf16_8(scaled) : pack_f16_8(scaled);
}

// Adds up the slices and finishes the outputs.
void launch_few_token_finish(CudaStream& stream, const FewTokenParams& params, Overlap overlap);

}  // namespace onggi::cuda

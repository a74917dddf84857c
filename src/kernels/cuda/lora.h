// The kernels of LoRA adapters over bf16 activations, for groups of linear layers that read one input. Each
// big array (x, dout, dx) passes through them once for all members.
//
// The dropout masks are those of DropoutArgs for the dense [T, K] input; what is dropped is never stored.
// Sums over tokens or columns that several blocks share go through partial sums in working memory, added in a
// fixed order: the same inputs give the same bits on the same GPU.
//
// Ranks are handled in chunks of kLoraChunk; adapters of higher ranks read the big arrays once per chunk.
#pragma once

#include <cuda_bf16.h>

#include <array>
#include <cstdint>

#include "device/cuda_stream.h"
#include "kernels/ops/linear.h"

namespace onggi::cuda {

inline constexpr int kLoraChunk = 32;

// `slot` is the rank to which a group's adapters are padded: the largest of them.
inline int64_t padded_rank(int64_t slot) {
  return slot <= 16 ? 16 : (slot + kLoraChunk - 1) / kLoraChunk * kLoraChunk;
}
inline int64_t rounded_to(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Element i of the mask of a stream is kept when its 16 random bits are at least `threshold`.
struct LoraMask {
  uint64_t seed = 0;
  uint32_t threshold = 0;                  // round(p * 65536); 0: nothing is dropped
  float inverse_keep = 1;                  // 1 / (1 - p)
  const uint64_t* first_stream = nullptr;  // of DropoutArgs
};
LoraMask mask_of(const LoraDropout& dropout);

struct LoraMember {
  LoraView lora;
  int64_t rows = 0;  // N
  uint64_t dropout_stream = 0;
};
using LoraMembers = std::array<LoraMember, kMaxLinearGroup>;

// How kernels that keep sums over tokens in registers share the tokens out: `count` splits of `tokens` each
// (a multiple of 16), fewer in the last.
struct LoraSplits {
  int64_t tokens = 0, count = 1;
};
// For blocks of which two run on a multiprocessor, `blocks` for each split.
LoraSplits lora_splits(const CudaStream& stream, int64_t blocks, int64_t tokens);

// bf16 copies of adapters, padded with zeros. Null where a member has no adapter.
//   a:         [padded_rank, K rounded to 8]
//   b_turned:  [padded_rank, N rounded to 8], B transposed
//   a_pieces:  A in the order in which lora_input_gradient's lanes take it:
//              [K rounded to 32, / 32][padded_rank / 16][2][32 lanes][8]
struct LoraCopies {
  std::array<__nv_bfloat16*, kMaxLinearGroup> a{};
  std::array<__nv_bfloat16*, kMaxLinearGroup> b_turned{};
  std::array<__nv_bfloat16*, kMaxLinearGroup> a_pieces{};
};
struct LoraPrepareArgs {
  int count = 1;
  LoraMembers members;
  int64_t columns = 0;  // K
  int64_t slot = 0;
  LoraCopies copies;  // what is not null is made
};
void prepare_lora(CudaStream& stream, const LoraPrepareArgs& args);

// u_i = dropout_i(x) A_i^T
struct LoraDownArgs {
  const __nv_bfloat16* x = nullptr;  // [T, K], rows x_stride apart
  int64_t x_stride = 0;
  int64_t tokens = 0, columns = 0;  // T, K
  int count = 1;
  LoraMembers members;
  LoraMask mask;
  int64_t slot = 0;
  std::array<const __nv_bfloat16*, kMaxLinearGroup> a{};  // of LoraCopies
  // Columns i slot .. (i + 1) slot of row t receive u_i[t], those up to u_width zeros. May be the columns of
  // x from K on.
  __nv_bfloat16* u = nullptr;
  int64_t u_stride = 0, u_width = 0;
  std::array<__nv_bfloat16*, kMaxLinearGroup> kept{};  // [T, R] too; null: not kept
};
void lora_down(CudaStream& stream, const LoraDownArgs& args);

// du_i = scale dout_i B_i, dB_i += scale dout_i^T u_i
struct LoraOutputGradientArgs {
  int64_t tokens = 0;
  int count = 1;
  LoraMembers members;
  int64_t slot = 0;
  std::array<const __nv_bfloat16*, kMaxLinearGroup> dout{};  // [T, N], rows dout_stride apart
  std::array<int64_t, kMaxLinearGroup> dout_stride{};
  std::array<const __nv_bfloat16*, kMaxLinearGroup> u{};         // [T, R] of the forward
  std::array<const __nv_bfloat16*, kMaxLinearGroup> b_turned{};  // of LoraCopies
  std::array<__nv_bfloat16*, kMaxLinearGroup> du{};  // [T, padded_rank], rows du_stride apart, written
  int64_t du_stride = 0;                             // even
  std::array<float*, kMaxLinearGroup> b_gradient{};  // f32 [N, R], added to
  float* partials = nullptr;                         // lora_output_partials() floats
};
int64_t lora_output_partials(const CudaStream& stream, const LoraOutputGradientArgs& args);
void lora_output_gradient(CudaStream& stream, const LoraOutputGradientArgs& args);

// dx (+)= sum_i dropout_i'(du_i A_i), dA_i += du_i^T dropout_i(x)
struct LoraInputGradientArgs {
  const __nv_bfloat16* x = nullptr;  // [T, K], rows x_stride apart
  int64_t x_stride = 0;
  int64_t tokens = 0, columns = 0;  // T, K
  int count = 1;
  LoraMembers members;
  LoraMask mask;
  int64_t slot = 0;
  std::array<const __nv_bfloat16*, kMaxLinearGroup> du{};        // [T, padded_rank], rows du_stride apart
  int64_t du_stride = 0;                                         // even
  std::array<const __nv_bfloat16*, kMaxLinearGroup> a_pieces{};  // of LoraCopies; for dx alone
  __nv_bfloat16* dx = nullptr;                                   // [T, K]; null: not wanted
  Output output = Output::kOverwrite;
  std::array<float*, kMaxLinearGroup> a_gradient{};  // f32 [R, K], added to
  float* partials = nullptr;  // lora_input_partials() floats; null: dx alone, x is not read
};
int64_t lora_input_partials(const CudaStream& stream, const LoraInputGradientArgs& args);
void lora_input_gradient(CudaStream& stream, const LoraInputGradientArgs& args);

// The gradient of SwiGLU, and that of A of the linear that reads activated = silu(gate) up, which is not
// stored: dgate, dup from d(activated), dA += du^T dropout(activated).
struct LoraGatedGradientArgs {
  int64_t tokens = 0, columns = 0;            // T, F
  const __nv_bfloat16* gate = nullptr;        // [T, F]
  const __nv_bfloat16* up = nullptr;          // [T, F]
  const __nv_bfloat16* dactivated = nullptr;  // [T, F]
  __nv_bfloat16* dgate = nullptr;             // [T, F]; may be gate
  __nv_bfloat16* dup = nullptr;               // [T, F], rows dup_stride apart; may be up where they are dense
  int64_t dup_stride = 0;
  LoraView lora;
  LoraMask mask;
  uint64_t dropout_stream = 0;
  const __nv_bfloat16* du = nullptr;  // [T, padded_rank], rows du_stride apart
  int64_t du_stride = 0;              // even
  float* a_gradient = nullptr;        // f32 [R, F], added to
  float* partials = nullptr;          // lora_gated_partials() floats
};
// Whether the kernel takes such ranks and alignments.
bool lora_gated_gradient_takes(const LoraGatedGradientArgs& args);
int64_t lora_gated_partials(const CudaStream& stream, const LoraGatedGradientArgs& args);
void lora_gated_gradient(CudaStream& stream, const LoraGatedGradientArgs& args);

}  // namespace onggi::cuda

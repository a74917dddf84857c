// Activations as operands of tensor core products.
#include <cstddef>

#include "kernels/cuda/few_token_wgmma.h"
#include "kernels/cuda/placed_layout.h"

namespace onggi::cuda {
namespace {

// The more threads of a token, the sooner; beside fewer fit two blocks of two groups of few_token_wgmma.cuh.
constexpr int kOperandThreads = 512, kImageThreads = 256, kThreadsOfMultiprocessor = 1536;

// A block has a token. image_rows: the rows of the order of operand_image_word, or 0. 64 tokens of Qwen3-8B:
// 1 MB read and 0.5 MB written, all of it in L2; 3 us.
template <int kThreads>
__global__ void __launch_bounds__(kThreads, kThreadsOfMultiprocessor / kThreads)
    operands_kernel(const __grid_constant__ FewTokenParams p, int image_rows) {
  constexpr int kHeld = 2;  // eights that a thread keeps; others are read twice
  grid_dependency_launch();
  const int token = static_cast<int>(blockIdx.x);
  const int eights = p.column_tiles * (kTileColumns / 8);
  const int own = static_cast<int>(threadIdx.x);
  // The norm's weights do not depend on the kernel before, and come from far.
  float norm[kHeld][8] = {};
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (p.norm != nullptr && own + i * kThreads < eights) load_norm_8(p, 8 * (own + i * kThreads), norm[i]);
  grid_dependency_wait();
  float held[kHeld][8];
  float square = 0, largest = 0;
  const auto take = [&](float(&values)[8], const float(&weights)[8]) {
    square += squares_of(values);
    if (p.norm != nullptr) scale_8(values, weights);
    largest = fmaxf(largest, largest_of(values));
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (own + i * kThreads < eights) load_input_8(p, token, 8 * (own + i * kThreads), held[i]);
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (own + i * kThreads < eights) take(held[i], norm[i]);
  const auto read_again = [&](int eight, float(&values)[8], float(&weights)[8]) {
    load_input_8(p, token, 8 * eight, values);
    if (p.norm != nullptr) load_norm_8(p, 8 * eight, weights);
  };
  for (int eight = own + kHeld * kThreads; eight < eights; eight += kThreads) {
    float values[8], weights[8];
    read_again(eight, values, weights);
    take(values, weights);
  }
  square = block_sum<kThreads>(square);
  largest = block_max<kThreads>(largest);
  const PowerOfTwo power = power_for(largest);
  if (own == 0) {
    float factor = power.inverse;
    if (p.norm != nullptr) factor *= rsqrtf(square / static_cast<float>(p.columns) + p.epsilon);
    const_cast<float*>(p.factors)[token] = factor;
  }
  const auto write = [&](int eight, const float(&values)[8]) {
    const int64_t row = static_cast<int64_t>(token) * p.column_tiles * kTileColumns;
    for (const Operands operands : {Operands::kF16, Operands::kBF16}) {
      auto* to = static_cast<std::byte*>(const_cast<void*>(operands == Operands::kF16 ? p.f16 : p.bf16));
      if (to == nullptr) continue;
      const uint4 packed = pack_operands(operands, power.scale, values);
      if (image_rows == 0) {
        *reinterpret_cast<uint4*>(to + 2 * (row + place_of_column(operands, 8 * eight))) = packed;
        continue;
      }
      const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        *reinterpret_cast<uint32_t*>(to + operand_image_word(operands, image_rows, token, 8 * eight, i)) =
            words[i];
    }
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (own + i * kThreads < eights) write(own + i * kThreads, held[i]);
  for (int eight = own + kHeld * kThreads; eight < eights; eight += kThreads) {
    float values[8], weights[8];
    read_again(eight, values, weights);
    if (p.norm != nullptr) scale_8(values, weights);
    write(eight, values);
  }
}

template <int kThreads>
void launch_operands(CudaStream& stream, const FewTokenParams& p, int image_rows, Overlap overlap) {
  launch(stream, "few_token_operands",
         {.grid = static_cast<unsigned>(p.tokens), .block = kThreads, .overlap = overlap},
         operands_kernel<kThreads>, p, image_rows);
}

}  // namespace

void launch_few_token_operands(CudaStream& stream, const FewTokenParams& p, Overlap overlap) {
  launch_operands<kOperandThreads>(stream, p, 0, overlap);
}
void launch_few_token_operand_image(CudaStream& stream, const FewTokenParams& p, int rows, Overlap overlap) {
  launch_operands<kImageThreads>(stream, p, rows, overlap);
}

}  // namespace onggi::cuda

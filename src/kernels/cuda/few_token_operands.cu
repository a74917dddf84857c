// Activations as operands of tensor core products.
#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/placed_layout.h"

namespace onggi::cuda {
namespace {

constexpr int kOperandThreads = 512;

// A block has a token. 64 tokens of Qwen3-8B: 1 MB read and 0.5 MB written, all of it in L2; 3 us.
__global__ void __launch_bounds__(kOperandThreads) operands_kernel(const __grid_constant__ FewTokenParams p) {
  constexpr int kHeld = 2;  // eights that a thread keeps; others are read twice
  grid_dependency_launch();
  grid_dependency_wait();
  const int token = static_cast<int>(blockIdx.x);
  const int eights = p.column_tiles * (kTileColumns / 8);
  const int own = static_cast<int>(threadIdx.x);
  float held[kHeld][8];
  float square = 0, largest = 0;
  const auto read = [&](int eight, float(&values)[8]) {
    load_input_8(p, token, 8 * eight, values);
    square += squares_of(values);
    if (p.norm != nullptr) apply_norm_8(p, 8 * eight, values);
    largest = fmaxf(largest, largest_of(values));
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (own + i * kOperandThreads < eights) read(own + i * kOperandThreads, held[i]);
  for (int eight = own + kHeld * kOperandThreads; eight < eights; eight += kOperandThreads) {
    float values[8];
    read(eight, values);
  }
  square = block_sum<kOperandThreads>(square);
  largest = block_max<kOperandThreads>(largest);
  const PowerOfTwo power = power_for(largest);
  if (own == 0) {
    float factor = power.inverse;
    if (p.norm != nullptr) factor *= rsqrtf(square / static_cast<float>(p.columns) + p.epsilon);
    const_cast<float*>(p.factors)[token] = factor;
  }
  const auto write = [&](int eight, const float(&values)[8]) {
    const int64_t row = static_cast<int64_t>(token) * p.column_tiles * kTileColumns;
    for (const Operands operands : {Operands::kF16, Operands::kBF16}) {
      auto* to = static_cast<uint16_t*>(const_cast<void*>(operands == Operands::kF16 ? p.f16 : p.bf16));
      if (to != nullptr)
        *reinterpret_cast<uint4*>(to + row + place_of_column(operands, 8 * eight)) =
            pack_operands(operands, power.scale, values);
    }
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (own + i * kOperandThreads < eights) write(own + i * kOperandThreads, held[i]);
  for (int eight = own + kHeld * kOperandThreads; eight < eights; eight += kOperandThreads) {
    float values[8];
    read(eight, values);
    write(eight, values);
  }
}

}  // namespace

void launch_few_token_operands(CudaStream& stream, const FewTokenParams& p, Overlap overlap) {
  launch(stream, "few_token_operands",
         {.grid = static_cast<unsigned>(p.tokens), .block = kOperandThreads, .overlap = overlap},
         operands_kernel, p);
}

}  // namespace onggi::cuda

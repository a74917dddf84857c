// Activations as operands, and the plan of few_token_large.cuh.
#include <algorithm>

#include "kernels/cuda/few_token_large.cuh"

namespace onggi::cuda {
namespace {

constexpr int kOperandThreads = 512;

// A block has a token. 64 tokens of Qwen3-8B: 1 MB read and 0.5 MB written, all of it in L2; 3 us.
__global__ void __launch_bounds__(kOperandThreads)
    operands_kernel(const __grid_constant__ FewTokenParams p, void* f16, void* bf16, float* factors) {
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
    factors[token] = factor;
  }
  const auto write = [&](int eight, float(&values)[8]) {
    const int64_t at =
        static_cast<int64_t>(token) * p.column_tiles * kTileColumns + place_of_column(8 * eight);
    if (bf16 != nullptr)
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(bf16) + at) =
          pack_operands(Operands::kBF16, power.scale, values);
    if (f16 != nullptr)
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(f16) + at) =
          pack_operands(Operands::kF16, power.scale, values);
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

int ceil_div(int n, int d) { return (n + d - 1) / d; }
int rounded_up(int n, int multiple) { return ceil_div(n, multiple) * multiple; }

int kernel_tokens(int tokens) { return tokens <= 32 ? 32 : 64; }

int lay_out_shared(const FewTokenParams& p, FewTokenLargePlan& plan, int warps) {
  bool has_nf4 = false;
  plan.ring_slot = plan.stage_bytes = 0;
  for (int i = 0; i < p.run_count; ++i) {
    const DType dtype = p.runs[i].dtype;
    has_nf4 = has_nf4 || dtype == DType::kNF4;
    plan.ring_slot = std::max(plan.ring_slot, kLargePairTiles * slot_bytes_of(dtype));
    plan.stage_bytes =
        std::max(plan.stage_bytes, kernel_tokens(p.tokens) * operand_row_bytes(halves_of(dtype)));
  }
  int at = plan.stages * plan.stage_bytes;
  plan.table = at;
  at += has_nf4 ? Nf4Weights::kTableBytes : 0;
  plan.ring = at;
  return at + warps * plan.stages * plan.ring_slot;
}

int steps_of(const FewTokenParams& p, int warps) {
  int steps = 0;
  for (int i = 0; i < p.run_count; ++i) steps += ceil_div(p.runs[i].tiles, kLargePairTiles * warps);
  return steps;
}

// What the slowest multiprocessor has to do, in tiles of weights: each round of blocks costs its warps' pairs
// stage by stage, and a start; slices cost the writing and reading of their sums.
double cost_of(const FewTokenMachine& machine, const FewTokenParams& p, int warps, int slices) {
  constexpr double kStartStages = 2;
  const int rounds = ceil_div(steps_of(p, warps) * slices, machine.multiprocessors);
  const double stages = ceil_div(p.column_tiles, slices) + kStartStages;
  // Few warps wait for each other's latencies.
  const double pace = std::max(warps, 4);
  const double parts = slices == 1 ? 0
                                   : 8.0 * slices * p.tokens * static_cast<double>(p.partial_rows) /
                                         (2304.0 * kLargePairTiles * machine.multiprocessors);
  return rounds * stages * pace + parts;
}

}  // namespace

bool plan_few_token_large(const FewTokenMachine& machine, FewTokenParams& p, FewTokenLargePlan& plan,
                          LaunchShape& shape) {
  constexpr int kMostSlices = 16;
  if (p.tokens > kFewTokenLargeMost) return false;
  int best_warps = 0, best_slices = 1;
  double best = 0;
  for (plan.stages = 3; plan.stages >= 2 && best_warps == 0; --plan.stages)
    for (int warps = kLargeWarps; warps >= 2; --warps) {
      if (static_cast<size_t>(lay_out_shared(p, plan, warps)) > machine.shared_bytes) continue;
      for (int slices = 1; slices <= std::min(p.column_tiles, kMostSlices); ++slices) {
        const double cost = cost_of(machine, p, warps, slices);
        if (best_warps != 0 && cost >= best) continue;
        best = cost;
        best_warps = warps;
        best_slices = slices;
      }
    }
  ++plan.stages;
  if (best_warps == 0) return false;
  plan.slice_tiles = ceil_div(p.column_tiles, best_slices);
  p.slices = ceil_div(p.column_tiles, plan.slice_tiles);
  int step = 0;
  for (int i = 0; i < p.run_count; ++i) {
    plan.first_step[i] = step;
    step += ceil_div(p.runs[i].tiles, kLargePairTiles * best_warps);
  }
  shape.grid = dim3(static_cast<unsigned>(step), static_cast<unsigned>(p.slices));
  shape.block = static_cast<unsigned>(best_warps * kWarp);
  shape.shared_bytes = static_cast<size_t>(rounded_up(lay_out_shared(p, plan, best_warps), 16));
  return true;
}

void launch_few_token_operands(CudaStream& stream, const FewTokenParams& p, const FewTokenLargePlan& plan,
                               Overlap overlap) {
  launch(stream, "few_token_operands",
         {.grid = static_cast<unsigned>(p.tokens), .block = kOperandThreads, .overlap = overlap},
         operands_kernel, p, const_cast<void*>(plan.f16), const_cast<void*>(plan.bf16),
         const_cast<float*>(p.factors));
}

void launch_few_token_large(CudaStream& stream, const FewTokenParams& p, const FewTokenLargePlan& plan,
                            const LaunchShape& shape) {
  if (p.tokens <= 32) return launch_few_token_32(stream, p, plan, shape);
  launch_few_token_64(stream, p, plan, shape);
}

}  // namespace onggi::cuda

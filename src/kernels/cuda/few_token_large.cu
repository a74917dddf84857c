// The plan of few_token_large.cuh.
#include <algorithm>

#include "kernels/cuda/few_token_large.cuh"

namespace onggi::cuda {
namespace {

int kernel_tokens(int tokens) { return tokens <= 32 ? 32 : 64; }

int lay_out_shared(const FewTokenParams& p, FewTokenLargePlan& plan, int pairs) {
  bool has_nf4 = false;
  plan.ring_slot = 0;
  for (int i = 0; i < p.run_count; ++i) {
    const DType dtype = p.runs[i].dtype;
    has_nf4 = has_nf4 || dtype == DType::kNF4;
    plan.ring_slot = std::max(plan.ring_slot, kLargePairTiles * slot_bytes_of(dtype) * 2 / halves_of(dtype));
  }
  plan.stage_bytes = kernel_tokens(p.tokens) * kOperandRowBytes;
  plan.table = plan.stages * plan.stage_bytes;
  plan.ring = plan.table + (has_nf4 ? Nf4Weights::kTableBytes : 0);
  // In the end the pairs' sums meet there.
  const int sums = pairs * kLargePairTiles * kernel_tokens(p.tokens) / 2 * kWarp * 4;
  return std::max(plan.ring + pairs * plan.stages * plan.ring_slot, sums);
}

int steps_of(const FewTokenParams& p, int pairs) {
  int steps = 0;
  for (int i = 0; i < p.run_count; ++i) steps += ceil_div(p.runs[i].tiles, kLargePairTiles * pairs);
  return steps;
}

// What the slowest multiprocessor has to do: each round of blocks costs its stages, by the warps that share a
// scheduler, and a start; slices cost the writing and reading of their sums.
double cost_of(const FewTokenMachine& machine, const FewTokenParams& p, int pairs, int slices) {
  constexpr double kStartStages = 3, kLeastPace = 1.5;
  const int rounds = ceil_div(steps_of(p, pairs) * slices, machine.multiprocessors);
  const double stages = ceil_div(p.column_tiles, slices) + kStartStages;
  const double pace = std::max<double>(ceil_div(pairs, 2), kLeastPace);
  // A stage of a scheduler takes about as long as the multiprocessor needs for 16 KiB of sums.
  const double parts = slices == 1 ? 0
                                   : 8.0 * slices * p.tokens * static_cast<double>(p.partial_rows) /
                                         (16384.0 * machine.multiprocessors);
  return rounds * stages * pace + parts;
}

}  // namespace

bool plan_few_token_large(const FewTokenMachine& machine, FewTokenParams& p, FewTokenLargePlan& plan,
                          LaunchShape& shape) {
  constexpr int kMostSlices = 16;
  if (p.tokens > kFewTokenLargeMost) return false;
  int best_pairs = 0, best_slices = 1;
  double best = 0;
  for (plan.stages = 3; plan.stages >= 2 && best_pairs == 0; --plan.stages)
    for (int pairs = kLargePairs; pairs >= 1; --pairs) {
      if (static_cast<size_t>(lay_out_shared(p, plan, pairs)) > machine.shared_bytes) continue;
      for (int slices = 1; slices <= std::min(p.column_tiles, kMostSlices); ++slices) {
        const double cost = cost_of(machine, p, pairs, slices);
        if (best_pairs != 0 && cost >= best) continue;
        best = cost;
        best_pairs = pairs;
        best_slices = slices;
      }
    }
  ++plan.stages;
  if (best_pairs == 0) return false;
  plan.slice_tiles = ceil_div(p.column_tiles, best_slices);
  p.slices = ceil_div(p.column_tiles, plan.slice_tiles);
  int step = 0;
  for (int i = 0; i < p.run_count; ++i) {
    plan.first_step[i] = step;
    step += ceil_div(p.runs[i].tiles, kLargePairTiles * best_pairs);
  }
  shape.grid = dim3(static_cast<unsigned>(step), static_cast<unsigned>(p.slices));
  shape.block = static_cast<unsigned>(2 * best_pairs * kWarp);
  shape.shared_bytes = static_cast<size_t>(rounded_up(lay_out_shared(p, plan, best_pairs), 16));
  return true;
}

void launch_few_token_large(CudaStream& stream, const FewTokenParams& p, const FewTokenLargePlan& plan,
                            const LaunchShape& shape) {
  if (p.tokens <= 32) return launch_few_token_32(stream, p, plan, shape);
  launch_few_token_64(stream, p, plan, shape);
}

}  // namespace onggi::cuda

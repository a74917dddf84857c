// The plan of few_token_wgmma.cuh.
#include <algorithm>

#include "kernels/cuda/few_token_wgmma.cuh"

namespace onggi::cuda {
namespace {

int ceil_div(int n, int d) { return (n + d - 1) / d; }
int rounded_up(int n, int multiple) { return ceil_div(n, multiple) * multiple; }

int kernel_tokens(int tokens) { return tokens <= 16 ? 16 : tokens <= 32 ? 32 : 64; }

int stage_bytes_of(DType dtype) { return slot_bytes_of(dtype) * 2 / halves_of(dtype); }

// Bytes of shared memory.
int lay_out_shared(const FewTokenParams& p, int groups, FewTokenWgmmaPlan& plan) {
  constexpr int kInputBytes = 48 << 10;  // enough for the way from L2
  const int half_bytes = operand_half_bytes(kernel_tokens(p.tokens));
  bool has_nf4 = false;
  plan.ring_slot = 0;
  for (int i = 0; i < p.run_count; ++i) {
    has_nf4 = has_nf4 || p.runs[i].dtype == DType::kNF4;
    plan.ring_slot = std::max(plan.ring_slot, stage_bytes_of(p.runs[i].dtype));
  }
  plan.input_slots = std::clamp(kInputBytes / half_bytes, 2, kWgmmaInputSlots);
  plan.barriers = plan.input_slots * half_bytes;
  plan.table = plan.barriers + static_cast<int>(sizeof(WgmmaBarriers));
  plan.ring = plan.table + (has_nf4 ? Nf4Weights::kTableBytes : 0);
  const int warps = kWgmmaWarps * groups;
  const int sums = kernel_tokens(p.tokens) * wgmma_sum_stride(warps) * static_cast<int>(sizeof(float));
  return rounded_up(std::max(plan.ring + warps * plan.ring_slots * plan.ring_slot, sums), 16);
}

int steps_of(const FewTokenParams& p, int groups) {
  int steps = 0;
  for (int i = 0; i < p.run_count; ++i) steps += ceil_div(p.runs[i].tiles, kWgmmaWarps * groups);
  return steps;
}

// Cycles of an H100 until its busiest multiprocessor is done. All together they need what memory takes for
// the weights (13 bytes a cycle for each multiprocessor), or L2 for the weights and for the activations,
// which every block reads for all its rows together. A multiprocessor needs its blocks' stages, a part of
// which is waiting whatever the number of its groups; a group's share of it is decoding, or the tensor cores'
// time. Each round of blocks has a start and an end, where the sums of slices meet.
double cost_of(const FewTokenMachine& machine, const FewTokenParams& p, int groups, int slices) {
  constexpr double kMemoryBytes = 13, kL2Bytes = 24, kWaiting = 500, kDecoding = 350, kTensorOfToken = 8;
  constexpr double kStart = 2500, kMeeting = 1000, kMeetingBytes = 20;
  constexpr int kPart = 16;  // multiprocessors of a part of the device: a cluster lies within one
  const double tokens = kernel_tokens(p.tokens);
  const int blocks = steps_of(p, groups) * slices, stages = ceil_div(p.column_tiles, slices);
  double weights = 0;
  for (int i = 0; i < p.run_count; ++i)
    weights += static_cast<double>(p.runs[i].tiles) * p.column_tiles * stage_bytes_of(p.runs[i].dtype);
  const double inputs = 2.0 * blocks * stages * operand_half_bytes(kernel_tokens(p.tokens));
  const double all =
      std::max(weights / kMemoryBytes, (weights + inputs) / kL2Bytes) / machine.multiprocessors;
  const int usable = std::max(1, machine.multiprocessors * (kPart / slices * slices) / kPart);
  const int rounds = ceil_div(blocks, usable);
  const double own = rounds * stages * (kWaiting + groups * std::max(kDecoding, kTensorOfToken * tokens));
  const double meeting =
      slices == 1 ? 0 : kMeeting + groups * kWgmmaRows * tokens * sizeof(float) / kMeetingBytes;
  return std::max(all, own) + rounds * (kStart + meeting);
}

}  // namespace

bool plan_few_token_wgmma(const FewTokenMachine& machine, FewTokenParams& p, FewTokenWgmmaPlan& plan,
                          LaunchShape& shape) {
  constexpr int kMostCluster = 8, kLeastMultiprocessors = 16;  // below them no clusters
  if (p.tokens > kFewTokenWgmmaMost) return false;
  const int most_slices =
      machine.multiprocessors < kLeastMultiprocessors ? 1 : std::min(kMostCluster, p.column_tiles);
  int best_groups = 0, best_slices = 1;
  double best = 0;
  const int most_ring = machine.ring_tiles > 0 ? machine.ring_tiles : 3;
  for (plan.ring_slots = most_ring; plan.ring_slots >= 2 && best_groups == 0; --plan.ring_slots)
    for (int groups = kWgmmaGroups; groups >= 1; --groups) {
      if (static_cast<size_t>(lay_out_shared(p, groups, plan)) > machine.shared_bytes) continue;
      for (int slices = 1; slices <= most_slices; ++slices) {
        // Every block has columns.
        if (ceil_div(p.column_tiles, ceil_div(p.column_tiles, slices)) != slices) continue;
        const double cost = cost_of(machine, p, groups, slices);
        if (best_groups != 0 && cost >= best) continue;
        best = cost;
        best_groups = groups;
        best_slices = slices;
      }
    }
  ++plan.ring_slots;
  if (best_groups == 0) return false;
  p.slices = best_slices;
  plan.input_rows = kernel_tokens(p.tokens);
  plan.slice_tiles = ceil_div(p.column_tiles, best_slices);
  int step = 0;
  for (int i = 0; i < p.run_count; ++i) {
    plan.first_step[i] = step;
    step += ceil_div(p.runs[i].tiles, kWgmmaWarps * best_groups);
  }
  shape.grid = dim3(static_cast<unsigned>(step), static_cast<unsigned>(p.slices));
  shape.block = static_cast<unsigned>(wgmma_threads(best_groups));
  shape.shared_bytes = static_cast<size_t>(lay_out_shared(p, best_groups, plan));
  shape.cluster_y = static_cast<unsigned>(p.slices);
  return true;
}

void launch_few_token_wgmma(CudaStream& stream, const FewTokenParams& p, const FewTokenWgmmaPlan& plan,
                            const LaunchShape& shape) {
  if (p.tokens <= 16) return launch_few_token_wgmma_16(stream, p, plan, shape);
  if (p.tokens <= 32) return launch_few_token_wgmma_32(stream, p, plan, shape);
  launch_few_token_wgmma_64(stream, p, plan, shape);
}

}  // namespace onggi::cuda

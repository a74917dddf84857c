// The plan of few_token_wgmma.cuh.
#include <algorithm>

#include "kernels/cuda/few_token_wgmma.cuh"

namespace onggi::cuda {
namespace {

int kernel_tokens(int tokens) { return tokens <= 16 ? 16 : tokens <= 32 ? 32 : tokens <= 64 ? 64 : 128; }

int stage_bytes_of(DType dtype) { return slot_bytes_of(dtype) * 2 / halves_of(dtype); }

// Bytes of shared memory.
int lay_out_shared(const FewTokenParams& p, int groups, FewTokenWgmmaPlan& plan) {
  bool has_nf4 = false;
  plan.ring_slot = 0;
  for (int i = 0; i < p.run_count; ++i) {
    has_nf4 = has_nf4 || p.runs[i].dtype == DType::kNF4;
    plan.ring_slot = std::max(plan.ring_slot, stage_bytes_of(p.runs[i].dtype));
  }
  plan.barriers = plan.input_slots * operand_half_bytes(plan.input_rows);
  plan.table = plan.barriers + static_cast<int>(sizeof(WgmmaBarriers));
  plan.ring = plan.table + (has_nf4 ? Nf4Weights::kTableBytes : 0);
  const int warps = kWgmmaWarps * groups;
  const int sums = plan.input_rows * wgmma_sum_stride(warps) * static_cast<int>(sizeof(float));
  return rounded_up(std::max(plan.ring + warps * plan.ring_slots * plan.ring_slot, sums), 16);
}

// The longest rings that fit beside another block of their size, else alone. The bytes in all.
int fit_shared(const FewTokenMachine& machine, const FewTokenParams& p, int groups, FewTokenWgmmaPlan& plan) {
  constexpr int kMostTiles = 4;
  const auto all = static_cast<int>(machine.shared_bytes);
  const int most = machine.ring_tiles > 0 ? machine.ring_tiles : kMostTiles;
  for (const int room : {half_of_shared(machine), all})
    for (plan.ring_slots = most; plan.ring_slots >= 2; --plan.ring_slots)
      for (const int kilobytes : {48, 32}) {  // enough for the way from L2
        const int input_bytes = kilobytes * 1024 * std::max(1, plan.input_rows / 64);
        plan.input_slots = std::min(input_bytes / operand_half_bytes(plan.input_rows), kWgmmaInputSlots);
        const int bytes = lay_out_shared(p, groups, plan);
        if (bytes <= room) return bytes;
      }
  return all + 1;
}

int steps_of(const FewTokenParams& p, int groups) {
  int steps = 0;
  for (int i = 0; i < p.run_count; ++i) steps += ceil_div(p.runs[i].tiles, kWgmmaWarps * groups);
  return steps;
}

struct WgmmaShape {
  int groups, slices;
  int resident;  // blocks of a multiprocessor at a time, at most
};

// Cycles of an H100 until its busiest multiprocessor is done. All together they need what memory takes for
// the weights (13 bytes a cycle for each multiprocessor), or L2 for the weights and for the activations,
// which every block reads for all its rows together. A multiprocessor needs its blocks' stages, a part of
// which is waiting however many groups there are; a group's share of it is decoding, or the tensor cores'
// time. The two overlap, but not wholly. Each round of blocks has a start and an end, where the sums of
// slices meet. The constants are fitted to gpu_few_token_bench's times of all shapes for 32 and 64 tokens:
// they find the fastest of each layer, or one within 3 %.
double cost_of(const FewTokenMachine& machine, const FewTokenParams& p, const WgmmaShape& shape, int rows) {
  constexpr double kMemoryBytes = 13, kL2Bytes = 24, kWaiting = 500, kDecoding = 350, kTensorOfToken = 8;
  constexpr double kStart = 5000, kMeetingSlice = 300, kMeetingBytes = 20;
  const int blocks = steps_of(p, shape.groups) * shape.slices;
  const int stages = ceil_div(p.column_tiles, shape.slices);
  double weights = 0;
  for (int i = 0; i < p.run_count; ++i)
    weights += static_cast<double>(p.runs[i].tiles) * p.column_tiles * stage_bytes_of(p.runs[i].dtype);
  const double inputs = 2.0 * blocks * stages * operand_half_bytes(rows);
  const double all =
      std::max(weights / kMemoryBytes, (weights + inputs) / kL2Bytes) / machine.multiprocessors;
  // A cluster lies within a part of the device: clusters do not fill it, and must not have to wait.
  const int room = machine.multiprocessors * shape.resident;
  const int rounds = ceil_div(blocks, shape.slices > 1 ? std::max(1, room * 7 / 8) : room);
  const int beside = std::min(shape.resident, ceil_div(blocks, machine.multiprocessors));
  const double group_work = std::max(kDecoding, kTensorOfToken * rows);
  const double own = rounds * stages * (kWaiting + beside * shape.groups * group_work);
  const double meeting = shape.slices == 1 ? 0
                                           : kMeetingSlice * shape.slices + shape.groups * kWgmmaRows * rows *
                                                                                sizeof(float) / kMeetingBytes;
  return std::max(all, own) + std::min(all, own) / 2 + rounds * (kStart + meeting);
}

// The fastest shape, or that of no groups where none fits.
WgmmaShape choose_shape(const FewTokenWgmmaMachine& wanted, const FewTokenParams& p,
                        FewTokenWgmmaPlan& plan) {
  constexpr int kMostCluster = 8, kLeastMultiprocessors = 16;  // below them no clusters
  // Smaller blocks of a cluster share a multiprocessor, while others have none.
  constexpr int kLeastGroups = 3;
  const FewTokenMachine& machine = wanted.machine;
  const int most_slices =
      machine.multiprocessors < kLeastMultiprocessors ? 1 : std::min(kMostCluster, p.column_tiles);
  WgmmaShape best{};
  double least = 0;
  for (int groups = most_wgmma_groups(plan.input_rows); groups >= 1; --groups) {
    if (wanted.groups > 0 && groups != wanted.groups) continue;
    const auto bytes = static_cast<size_t>(fit_shared(machine, p, groups, plan));
    if (bytes > machine.shared_bytes) continue;
    const int resident =
        std::min(resident_wgmma_threads(plan.input_rows) / wgmma_threads(groups),
                 static_cast<int>((machine.shared_bytes + kReservedShared) / (bytes + kReservedShared)));
    for (int slices = 1; slices <= most_slices; ++slices) {
      if (wanted.slices > 0 ? slices != std::min(wanted.slices, most_slices)
                            : slices > 1 && (slices % 2 == 1 || groups < kLeastGroups))
        continue;
      // Every block has columns.
      if (ceil_div(p.column_tiles, ceil_div(p.column_tiles, slices)) != slices) continue;
      const WgmmaShape shape{groups, slices, std::max(resident, 1)};
      const double cost = cost_of(machine, p, shape, plan.input_rows);
      if (best.groups != 0 && cost >= least) continue;
      least = cost;
      best = shape;
    }
  }
  return best;
}

}  // namespace

bool plan_few_token_wgmma(const FewTokenWgmmaMachine& machine, FewTokenParams& p, FewTokenWgmmaPlan& plan,
                          LaunchShape& shape) {
  if (p.tokens > kFewTokenWgmmaMost) return false;
  plan.input_rows = kernel_tokens(p.tokens);
  const WgmmaShape best = choose_shape(machine, p, plan);
  if (best.groups == 0) return false;
  p.slices = best.slices;
  plan.slice_tiles = ceil_div(p.column_tiles, best.slices);
  int step = 0;
  for (int i = 0; i < p.run_count; ++i) {
    plan.first_step[i] = step;
    step += ceil_div(p.runs[i].tiles, kWgmmaWarps * best.groups);
  }
  shape.grid = dim3(static_cast<unsigned>(step), static_cast<unsigned>(p.slices));
  shape.block = static_cast<unsigned>(wgmma_threads(best.groups));
  shape.shared_bytes = static_cast<size_t>(fit_shared(machine.machine, p, best.groups, plan));
  shape.cluster_y = static_cast<unsigned>(p.slices);
  return true;
}

void launch_few_token_wgmma(CudaStream& stream, const FewTokenParams& p, const FewTokenWgmmaPlan& plan,
                            const LaunchShape& shape) {
  if (p.tokens <= 16) return launch_few_token_wgmma_16(stream, p, plan, shape);
  if (p.tokens <= 32) return launch_few_token_wgmma_32(stream, p, plan, shape);
  if (p.tokens <= 64) return launch_few_token_wgmma_64(stream, p, plan, shape);
  launch_few_token_wgmma_128(stream, p, plan, shape);
}

}  // namespace onggi::cuda

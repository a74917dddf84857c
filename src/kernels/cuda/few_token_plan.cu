#include <algorithm>

#include "kernels/cuda/few_token_plan.h"
#include "kernels/cuda/few_token_tensor.cuh"

namespace onggi::cuda {
namespace {

int ceil_div(int n, int d) { return (n + d - 1) / d; }
int rounded_up(int n, int multiple) { return ceil_div(n, multiple) * multiple; }

int columns_of_tile(DType dtype) {
  switch (dtype) {
    case DType::kNF4:
      return Nf4Weights::kColumns;
    case DType::kBF16:
    case DType::kF16:
      return PlainWeights<DType::kBF16>::kColumns;
    default:
      return placed_tile(dtype).columns;
  }
}
int bytes_of_tile(DType dtype) {
  switch (dtype) {
    case DType::kNF4:
      return Nf4Weights::kSlotBytes;
    case DType::kBF16:
    case DType::kF16:
      return PlainWeights<DType::kBF16>::kSlotBytes;
    default:
      return placed_tile(dtype).bytes;
  }
}

// Whether the kernel can read a member's rows.
bool has_tensor_kernel(const FewTokenMember& member, int columns) {
  const auto address = reinterpret_cast<uintptr_t>(member.data);
  switch (member.dtype) {
    case DType::kNF4:
      return columns % Nf4Weights::kColumns == 0 && address % 16 == 0 &&
             reinterpret_cast<uintptr_t>(member.nf4_absmax) % 4 == 0;
    case DType::kBF16:
    case DType::kF16:
      return columns % 8 == 0 && address % 16 == 0;
    default:
      return is_placed_in_tiles(member.dtype) && address % 16 == 0;
  }
}

// The kernel for a number of tokens.
struct Kernel {
  int tokens;         // columns of the sums of activations
  int column_tokens;  // tokens of a warp's sums in shared memory; 0: sums go to memory
  int warps;
  int blocks;      // of a multiprocessor, in registers
  int most_slice;  // columns of a slice, so that the rings have room
};
template <int kTiles, int kSpread>
constexpr Kernel kernel_of(int most_slice) {
  using Shape = FewTokenShape<kTiles, kSpread>;
  return {Shape::kTokens, kTiles == 1 ? Shape::kColumnTokens : 0, Shape::kWarps, Shape::kBlocks, most_slice};
}
Kernel kernel_for(int tokens) {
  constexpr int kNoSlices = 1 << 20;
  if (tokens <= 2) return kernel_of<1, 4>(kNoSlices);
  if (tokens <= 8) return kernel_of<1, 1>(kNoSlices);
  if (tokens <= 32) return kernel_of<4, 1>(1024);
  return kernel_of<8, 1>(1024);
}

FewTokenShared lay_out_shared(const FewTokenParams& p, const Kernel& kernel, int slots) {
  const int slice_columns = p.slice_columns;
  FewTokenShared shared{};
  shared.ring_slots = slots;
  int at = p.tokens * input_row_bytes(slice_columns);
  const auto take = [&at](int bytes) {
    const int begin = at;
    at += rounded_up(bytes, 128);
    return begin;
  };
  at = rounded_up(at, 128);
  shared.zeros = take(512);
  shared.sums = take(slice_columns / 16 * kernel.tokens * 4);
  shared.squares = take(p.norm != nullptr ? p.tokens * slice_columns / 256 * 4 : 0);
  shared.inverse_rms = take(p.tokens * 4);
  shared.partials = take(2 * kernel.warps * 20 * kernel.column_tokens * 4);
  bool has_nf4 = false;
  for (int i = 0; i < p.run_count; ++i) {
    has_nf4 = has_nf4 || p.runs[i].dtype == DType::kNF4;
    shared.ring_slot = std::max(shared.ring_slot, bytes_of_tile(p.runs[i].dtype));
  }
  shared.code = take(has_nf4 ? Nf4Weights::kTableBytes : 0);
  shared.ring_slot = rounded_up(shared.ring_slot, 16);
  shared.ring = take(kernel.warps * slots * shared.ring_slot);
  shared.total = at;
  return shared;
}

// The longest rings that fit: beside another block of their size where registers allow two, else alone.
FewTokenShared fitting_shared(const FewTokenMachine& machine, const FewTokenParams& p, const Kernel& kernel) {
  constexpr int kMostTiles = 4, kReserved = 1024;  // bytes of shared memory that each block costs besides
  const int most = machine.ring_tiles > 0 ? machine.ring_tiles : kMostTiles;
  if (machine.ring_tiles == 0 && kernel.blocks > 1)
    for (int slots = most; slots >= 3; --slots) {
      const FewTokenShared shared = lay_out_shared(p, kernel, slots);
      if (static_cast<size_t>(2 * (shared.total + kReserved)) <= machine.shared_bytes + kReserved)
        return shared;
    }
  for (int slots = most; slots > 2; --slots) {
    const FewTokenShared shared = lay_out_shared(p, kernel, slots);
    if (static_cast<size_t>(shared.total) <= machine.shared_bytes) return shared;
  }
  return lay_out_shared(p, kernel, 2);
}

void make_runs(FewTokenParams& p) {
  p.run_count = 0;
  for (int i = 0; i < p.member_count; ++i) {
    const FewTokenMember& member = p.members[i];
    if (p.run_count == 0 || p.runs[p.run_count - 1].dtype != member.dtype)
      p.runs[p.run_count++] = {member.dtype, i, 0, 0};
    p.runs[p.run_count - 1].tiles += member.tiles;
  }
}

int steps_of(const FewTokenParams& p, int row_warps) {
  int steps = 0;
  for (int i = 0; i < p.run_count; ++i) steps += ceil_div(p.runs[i].tiles, row_warps);
  return steps;
}

// Tiles of the widest run along a slice of K.
int tiles_across(const FewTokenParams& p, int slice_columns) {
  int width = columns_of_tile(p.runs[0].dtype);
  for (int i = 1; i < p.run_count; ++i) width = std::max(width, columns_of_tile(p.runs[i].dtype));
  return ceil_div(std::min(slice_columns, p.columns), width);
}

// How the warps of a block are arranged: what keeps the slowest warp shortest.
void arrange_warps(FewTokenParams& p, int blocks, const Kernel& kernel) {
  const bool sums_meet = kernel.column_tokens > 0;
  int best = 0;
  for (int column_warps = kernel.warps; column_warps >= 1; column_warps /= 2) {
    const int row_warps = kernel.warps / column_warps;
    if (p.activate == Activate::kGate && row_warps < 2) continue;
    // Each part costs memory traffic: where sums do not meet in shared memory few warps share a tile.
    if (!sums_meet && column_warps > 2) continue;
    const int rounds = ceil_div(steps_of(p, row_warps), blocks);
    const int cost = rounds * ceil_div(tiles_across(p, p.slice_columns), column_warps);
    // Of equals the one whose warps meet less often.
    if (best != 0 && cost > best) continue;
    best = cost;
    p.row_warps = row_warps;
    p.column_warps = column_warps;
  }
}

}  // namespace

bool plan_few_tokens(const FewTokenMachine& machine, FewTokenParams& p, LaunchShape& shape) {
  for (int i = 0; i < p.member_count; ++i)
    if (!has_tensor_kernel(p.members[i], p.columns)) return false;
  if (p.activate == Activate::kGate && p.members[0].dtype != p.members[1].dtype) return false;
  make_runs(p);
  const Kernel kernel = kernel_for(p.tokens);
  const bool sums_meet = kernel.column_tokens > 0;
  const int padded = rounded_up(p.columns, 256);
  int slices = ceil_div(padded, kernel.most_slice);
  for (;; ++slices) {
    p.slice_columns = rounded_up(ceil_div(padded, slices), 256);
    p.shared = fitting_shared(machine, p, kernel);
    if (static_cast<size_t>(p.shared.total) <= machine.shared_bytes) break;
    if (p.slice_columns == 256) return false;
  }
  slices = ceil_div(padded, p.slice_columns);
  const int most_blocks = machine.multiprocessors * machine.blocks_per_multiprocessor;
  const int blocks = std::max(1, most_blocks / slices);
  arrange_warps(p, blocks, kernel);
  p.steps = steps_of(p, p.row_warps);
  int step = 0;
  for (int i = 0; i < p.run_count; ++i) {
    p.runs[i].first_step = step;
    step += ceil_div(p.runs[i].tiles, p.row_warps);
  }
  // Warps beyond the tiles of a slice have no part.
  const int sharing = sums_meet ? 1 : p.column_warps;
  p.partial_count = sums_meet && slices == 1 ? 0 : slices * sharing;
  shape.grid = dim3(static_cast<unsigned>(std::min(blocks, p.steps)), static_cast<unsigned>(slices));
  shape.block = static_cast<unsigned>(kernel.warps * kWarp);
  shape.shared_bytes = static_cast<size_t>(p.shared.total);
  return true;
}

}  // namespace onggi::cuda

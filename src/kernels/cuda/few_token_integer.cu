#include <algorithm>

#include "kernels/cuda/few_token_integer.cuh"

namespace onggi::cuda {
namespace {

int ceil_div(int n, int d) { return (n + d - 1) / d; }
int rounded_up(int n, int multiple) { return ceil_div(n, multiple) * multiple; }

bool has_integer_kernel(const FewTokenMember& member) {
  return (member.dtype == DType::kQ4_K || member.dtype == DType::kQ6_K) &&
         reinterpret_cast<uintptr_t>(member.data) % 16 == 0;
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

// Blocks for each run so that the bytes of the block with the most are fewest; how many blocks in all.
int share_blocks(const FewTokenParams& p, int most_bytes, int (&blocks)[kMaxLinearGroup]) {
  const int together = p.activate == Activate::kGate ? 2 : 1;
  int all = 0;
  for (int i = 0; i < p.run_count; ++i) {
    const int units = p.runs[i].tiles / together;
    const int units_of_block = std::max(1, most_bytes / (together * placed_tile(p.runs[i].dtype).bytes));
    blocks[i] = ceil_div(units, units_of_block);
    all += blocks[i];
  }
  return all;
}

int cut_rows(const FewTokenParams& p, int most_blocks, FewTokenIntegerPlan& plan) {
  // The bytes of a block's column of tiles: the least that is enough lies between 0 and all.
  int low = 0, high = 0;
  for (int i = 0; i < p.run_count; ++i) high += p.runs[i].tiles * placed_tile(p.runs[i].dtype).bytes;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    (share_blocks(p, middle, plan.blocks) <= most_blocks ? high : low) = middle;
  }
  const int all = share_blocks(p, high, plan.blocks);
  int first = 0;
  for (int i = 0; i < p.run_count; ++i) {
    plan.first_block[i] = first;
    first += plan.blocks[i];
  }
  return all;
}

int lay_out_shared(const FewTokenParams& p, int kernel_tokens, FewTokenIntegerPlan& plan) {
  const int columns = rounded_up(p.columns, 256);
  plan.row_bytes = columns + (kernel_tokens <= 2 ? 64 : 32);
  int at = 0;
  const auto take = [&at](int bytes) {
    const int begin = at;
    at += rounded_up(bytes, 128);
    return begin;
  };
  take(p.tokens * plan.row_bytes);
  plan.factors = take(columns / 32 * kernel_tokens * 8);
  plan.squares = take(p.norm != nullptr ? p.tokens * columns / 256 * 4 : 0);
  plan.inverse_rms = take(p.tokens * 4);
  plan.partials = take(FewTokenIntegerShape::kWarps * plan.partial_slots * kTileRows * kernel_tokens * 4);
  return at;
}

}  // namespace

bool plan_few_token_integer(const FewTokenMachine& machine, FewTokenParams& p, FewTokenIntegerPlan& plan,
                            LaunchShape& shape) {
  using Shape = FewTokenIntegerShape;
  constexpr int64_t kMostRowTiles = 1 << 18;  // of all members: the plan's sums stay below 2^31
  if (p.tokens > kFewTokenIntegerMost) return false;
  int64_t tiles = 0;
  for (int i = 0; i < p.member_count; ++i) {
    if (!has_integer_kernel(p.members[i])) return false;
    tiles += p.members[i].tiles;
  }
  if (tiles > kMostRowTiles) return false;
  if (p.activate == Activate::kGate && p.members[0].dtype != p.members[1].dtype) return false;
  make_runs(p);
  const int most_blocks = machine.multiprocessors * machine.blocks_per_multiprocessor;
  if (most_blocks < p.run_count) return false;
  const int blocks = cut_rows(p, most_blocks, plan);
  // The slots of a warp's sums: it begins within a row of tiles and has up to kPhaseRows more.
  constexpr int kPhaseRows = 4;
  plan.phase_rows = kPhaseRows * Shape::kWarps;
  plan.partial_slots = kPhaseRows + 2;
  p.partial_count = 0;
  const int kernel_tokens = p.tokens <= 2 ? p.tokens : p.tokens <= 4 ? 4 : 8;
  const int shared_bytes = lay_out_shared(p, kernel_tokens, plan);
  if (static_cast<size_t>(shared_bytes) > machine.shared_bytes) return false;
  shape.grid = dim3(static_cast<unsigned>(blocks));
  shape.block = Shape::kThreads;
  shape.shared_bytes = static_cast<size_t>(shared_bytes);
  return true;
}

void launch_few_token_integer(CudaStream& stream, const FewTokenParams& p, const FewTokenIntegerPlan& plan,
                              const LaunchShape& shape) {
  if (p.tokens == 1) return launch_few_token_integer_1(stream, p, plan, shape);
  if (p.tokens == 2) return launch_few_token_integer_2(stream, p, plan, shape);
  if (p.tokens <= 4) return launch_few_token_integer_4(stream, p, plan, shape);
  launch_few_token_integer_8(stream, p, plan, shape);
}

}  // namespace onggi::cuda

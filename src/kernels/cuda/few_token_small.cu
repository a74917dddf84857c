// The kernel of few_token_small.h and its plan.
//
// A block has neighbouring tiles of rows of one run and a slice of K, whose activations it keeps in shared
// memory. Its tiles, row after row, are shared out evenly to its warps, so that each warp reads one stretch
// of memory, through a ring of its own in shared memory that asynchronous copies keep full. The first copies
// begin before the kernel before has ended: weights do not depend on it. Where a row of tiles ends a warp
// leaves its sums in shared memory; the block adds them up, in the order of the columns, and finishes the
// outputs.
#include <algorithm>
#include <type_traits>

#include "kernels/cuda/few_token_small.h"
#include "kernels/cuda/few_token_weights.cuh"

namespace onggi::cuda {
namespace {

struct FewTokenSmallShape {
  // 80 registers for a thread: half of the multiprocessor, so that the next kernel's block can start.
  static constexpr int kWarps = 12, kThreads = kWarps * kWarp;
};

// Which tiles of a phase are a warp's: neighbours in the order of rows.
struct WarpShare {
  int row, column;  // of the first tile; row of the run
  int count;
};

// The block's rows of tiles, in phases.
struct SmallRows {
  int begin, end;  // of the run
  int across;      // tiles of a row in the slice
  int phase_rows;

  __device__ __forceinline__ int rows(int first) const { return min(phase_rows, end - first); }
  __device__ __forceinline__ int share(int first) const {
    return (rows(first) * across + FewTokenSmallShape::kWarps - 1) / FewTokenSmallShape::kWarps;
  }
  __device__ __forceinline__ WarpShare warp_share(int first) const {
    const int all = rows(first) * across, each = share(first), from = min(warp_index() * each, all);
    return {first + from / across, from % across, min(each, all - from)};
  }
};

// A warp's ring: what is copied next, through all phases.
template <typename Weights>
struct SmallRing {
  const FewTokenParams& p;
  const FewTokenRun& run;
  const SmallRows& rows;
  unsigned char* const slots;
  const int slot_bytes, all_slots_bytes;
  const int first_column;  // tile of the slice's first column
  int phase;               // first row of the phase of the next tile
  WarpShare next;
  typename Weights::Source source;
  int to = 0;  // bytes to the slot of the next tile

  __device__ __forceinline__ SmallRing(const FewTokenParams& params, const FewTokenRun& of,
                                       const SmallRows& block_rows, unsigned char* ring,
                                       const FewTokenSmallPlan& plan, int slice_first)
      : p(params),
        run(of),
        rows(block_rows),
        slots(ring),
        slot_bytes(plan.ring_slot),
        all_slots_bytes(plan.ring_slots * plan.ring_slot),
        first_column(slice_first),
        phase(block_rows.begin),
        next(block_rows.warp_share(block_rows.begin)) {
    if (next.count == 0) next_phase();
    seek();
  }

  __device__ __forceinline__ void seek() {
    if (next.count == 0) return;
    const TileOwner owner = tile_owner(p, run, next.row);
    source.seek(p, p.members[owner.member], owner.tile, first_column + next.column);
  }

  // Queues the copies of one tile, or of none where no more are left, as one group.
  __device__ __forceinline__ void issue() {
    if (next.count > 0) {
      source.issue(slots + to);
      if (--next.count == 0) {
        next_phase();
      } else if (++next.column == rows.across) {
        next.column = 0;
        ++next.row;
        seek();
      }
      to = to + slot_bytes == all_slots_bytes ? 0 : to + slot_bytes;
    }
    cp_async_commit();
  }
  __device__ __forceinline__ void next_phase() {
    while (next.count == 0) {
      phase += rows.phase_rows;
      if (phase >= rows.end) return;
      next = rows.warp_share(phase);
    }
    seek();
  }
};

// Until the oldest of `slots` - 1 groups on their way is there.
__device__ __forceinline__ void wait_for_tile(int slots) {
  if (slots == 4) {
    cp_async_wait<2>();
  } else if (slots == 3) {
    cp_async_wait<1>();
  } else {
    cp_async_wait<0>();
  }
}

// Brings the slice of x, times the norm's weight, into shared memory, and what finished sums are multiplied
// with into factors: the inverses of the activations' powers of two, times the norm's 1 / rms(x).
__device__ __forceinline__ void stage_small_input(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                                  Operands operands, int first_column,
                                                  unsigned char* shared) {
  constexpr int kHeld = 2;  // eights that a thread keeps; others are read twice
  const int token = warp_index() / plan.token_warps, own_warp = warp_index() % plan.token_warps;
  const int step = kWarp * plan.token_warps;
  const int eights = min(plan.slice_tiles, p.column_tiles - first_column) * (kTileColumns / 8);
  const int first_k = kTileColumns * first_column;
  const int begin = token < p.tokens ? kWarp * own_warp + lane_index() : eights;
  float held[kHeld][8];
  float square = 0, largest = 0;
  const auto read = [&](int eight, float(&values)[8], bool count_squares) {
    load_input_8(p, token, first_k + 8 * eight, values);
    if (count_squares) square += squares_of(values);
    if (p.norm != nullptr) apply_norm_8(p, first_k + 8 * eight, values);
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    if (begin + i * step >= eights) break;
    read(begin + i * step, held[i], true);
    largest = fmaxf(largest, largest_of(held[i]));
  }
  for (int eight = begin + kHeld * step; eight < eights; eight += step) {
    float values[8];
    read(eight, values, true);
    largest = fmaxf(largest, largest_of(values));
  }
  square = warp_sum(square);
  largest = warp_max(largest);
  auto* reductions = reinterpret_cast<float2*>(shared + plan.reductions);
  if (lane_index() == 0) reductions[warp_index()] = make_float2(square, largest);
  __syncthreads();
  if (token >= p.tokens) return;
  square = largest = 0;
  for (int warp = 0; warp < plan.token_warps; ++warp) {
    const float2 of_warp = reductions[token * plan.token_warps + warp];
    square += of_warp.x;
    largest = fmaxf(largest, of_warp.y);
  }
  const PowerOfTwo power = power_for(largest);
  if (own_warp == 0 && lane_index() == 0) {
    float factor = power.inverse;
    if (p.norm != nullptr) factor *= rsqrtf(square / static_cast<float>(p.columns) + p.epsilon);
    reinterpret_cast<float*>(shared + plan.factors)[token] = factor;
  }
  unsigned char* row = shared + token * plan.row_bytes;
  const auto write = [&](int eight, float(&values)[8]) {
    *reinterpret_cast<uint4*>(row + 2 * place_of_column(operands, 8 * eight)) =
        pack_operands(operands, power.scale, values);
  };
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (begin + i * step < eights) write(begin + i * step, held[i]);
  for (int eight = begin + kHeld * step; eight < eights; eight += step) {
    float values[8];
    read(eight, values, false);
    write(eight, values);
  }
}

// Brings the slice of x into shared memory where launch_few_token_operands has made operands of it.
__device__ __forceinline__ void copy_operands(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                              Operands operands, int first_column, unsigned char* shared) {
  const int pieces = min(plan.slice_tiles, p.column_tiles - first_column) * (kTileColumns / 8);
  const int64_t row_bytes = int64_t{2} * kTileColumns * p.column_tiles;
  const auto* from = static_cast<const unsigned char*>(operands == Operands::kF16 ? p.f16 : p.bf16) +
                     2 * kTileColumns * first_column;
  for (int token = 0; token < p.tokens; ++token, from += row_bytes)
    for (int piece = threadIdx.x; piece < pieces; piece += FewTokenSmallShape::kThreads)
      cp_async_16(shared + token * plan.row_bytes + 16 * piece, from + 16 * piece);
  if (static_cast<int>(threadIdx.x) < p.tokens)
    reinterpret_cast<float*>(shared + plan.factors)[threadIdx.x] =
        p.slices == 1 ? p.factors[threadIdx.x] : 1.0f;
  cp_async_commit();
  cp_async_wait<0>();
}

// Adds the product of a tile with the activations at x.
template <typename Weights>
__device__ __forceinline__ void multiply_small_tile(const WeightTables& tables, const unsigned char* slot,
                                                    const unsigned char* x, float (&sums)[2][4]) {
#pragma unroll 1
  for (int h = 0; h < Weights::kHalves; ++h) {
    const typename Weights::Half half(tables, slot, h);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint32_t a[2][4];
      Weights::operands(half, tables, j, a);
      const uint4 b = *reinterpret_cast<const uint4*>(x + 256 * h + 64 * j);
      multiply_16<Weights::kOperands>(sums[0], a[0], b.x, b.y);
      multiply_16<Weights::kOperands>(sums[1], a[1], b.z, b.w);
    }
  }
}

// A warp's sums of a row of tiles, [token][16] floats, for the tokens that there are.
__device__ __forceinline__ void leave_sums(int tokens, float* slot, float (&sums)[2][4]) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = 2 * pair + i % 2;
    if (token < tokens) slot[kTileRows * token + group + 8 * (i / 2)] = sums[0][i] + sums[1][i];
    sums[0][i] = sums[1][i] = 0;
  }
}

// Finishes the outputs of a phase from what the warps left.
__device__ __forceinline__ void finish_phase(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                             const FewTokenRun& run, const SmallRows& rows, int first,
                                             const unsigned char* shared) {
  const auto* partials = reinterpret_cast<const float*>(shared + plan.partials);
  const auto* factors = reinterpret_cast<const float*>(shared + plan.factors);
  const bool gated = p.activate == Activate::kGate;
  const int outputs = gated ? rows.rows(first) / 2 : rows.rows(first);
  const int share = rows.share(first), slot_floats = kTileRows * p.tokens;
  const auto sum_of = [&](int row, int at) {
    const int begin = row * rows.across, end = begin + rows.across;
    float sum = 0;
    for (int warp = begin / share; warp * share < end; ++warp) {
      const int slot = warp * plan.partial_slots + row - warp * share / rows.across;
      sum += partials[slot * slot_floats + at];
    }
    return sum;
  };
#pragma unroll 1
  for (int i = threadIdx.x; i < kTileRows * outputs * p.tokens; i += FewTokenSmallShape::kThreads) {
    const int row_in_tile = i % kTileRows, output = i / kTileRows % outputs, token = i / kTileRows / outputs;
    const int at = kTileRows * token + row_in_tile, tile = gated ? 2 * output : output;
    const TileOwner owner = tile_owner(p, run, first + tile);
    const FewTokenMember& member = p.members[owner.member];
    const int row = kTileRows * owner.tile + row_in_tile;
    const float sum = factors[token] * sum_of(tile, at);
    const float second = gated ? factors[token] * sum_of(tile + 1, at) : 0.0f;
    if (p.partials != nullptr) {
      store_partial(p, member, row, token, sum);
      if (gated) store_partial(p, p.members[1], row, token, second);
    } else if (row < member.rows) {
      if (gated) {
        store_gated(p, row, token, sum, second);
      } else {
        store_output(p, member, row, token, sum);
      }
    }
  }
}

template <typename Weights>
__device__ __forceinline__ void take_small_rows(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                                int index, unsigned char* shared) {
  const FewTokenRun& run = p.runs[index];
  const int block = static_cast<int>(blockIdx.x) - plan.first_block[index];
  constexpr int kParts = 2 / Weights::kHalves;  // tiles of 256 columns
  const int slice_first = static_cast<int>(blockIdx.y) * plan.slice_tiles;
  // Gate and up stay together.
  const int together = p.activate == Activate::kGate ? 2 : 1, units = run.tiles / together;
  const SmallRows rows{together * (block * units / plan.blocks[index]),
                       together * ((block + 1) * units / plan.blocks[index]),
                       kParts * min(plan.slice_tiles, p.column_tiles - slice_first), plan.phase_rows};
  unsigned char* ring_begin = shared + plan.ring + warp_index() * plan.ring_slots * plan.ring_slot;
  SmallRing<Weights> ring(p, run, rows, ring_begin, plan, kParts * slice_first);
#pragma unroll 1
  for (int i = 1; i < plan.ring_slots; ++i) ring.issue();
  if constexpr (std::is_same_v<Weights, Nf4Weights>)
    Nf4Weights::fill_table(p.nf4_tables, shared + plan.table);
  if (!plan.waits_late) grid_dependency_wait();
  if (plan.has_operands) {
    copy_operands(p, plan, Weights::kOperands, slice_first, shared);
  } else {
    stage_small_input(p, plan, Weights::kOperands, slice_first, shared);
  }
  __syncthreads();

  // Columns of tokens that are not there repeat one that is: nobody reads their sums.
  const unsigned char* x =
      shared + min(lane_index() / 4, p.tokens - 1) * plan.row_bytes + 16 * (lane_index() % 4);
  const int slot_floats = kTileRows * p.tokens;
  float sums[2][4] = {};
  int from = 0;
#pragma unroll 1
  for (int first = rows.begin; first < rows.end; first += rows.phase_rows) {
    float* left =
        reinterpret_cast<float*>(shared + plan.partials) + warp_index() * plan.partial_slots * slot_floats;
    WarpShare own = rows.warp_share(first);
#pragma unroll 1
    for (; own.count > 0; --own.count) {
      wait_for_tile(plan.ring_slots);
      __syncwarp();  // the tile of all lanes is there; and the slot that is filled next was read by all
      ring.issue();
      WeightTables tables{nullptr, shared + plan.table};
      if constexpr (std::is_same_v<Weights, Nf4Weights>)
        tables.member = &p.members[tile_owner(p, run, own.row).member];
      multiply_small_tile<Weights>(tables, ring_begin + from, x + 256 * Weights::kHalves * own.column, sums);
      from = from + plan.ring_slot == plan.ring_slots * plan.ring_slot ? 0 : from + plan.ring_slot;
      if (++own.column == rows.across || own.count == 1) {
        leave_sums(p.tokens, left, sums);
        left += slot_floats;
      }
      if (own.column == rows.across) {
        own.column = 0;
        ++own.row;
      }
    }
    if (first == rows.begin && plan.waits_late) grid_dependency_wait();
    __syncthreads();
    finish_phase(p, plan, run, rows, first, shared);
    if (first + rows.phase_rows < rows.end) __syncthreads();  // the next phase leaves its sums there
  }
  cp_async_wait<0>();
}

// On an H100, Qwen3-8B in Q4_K_M, one token, launch after launch: q, k and v 14.2 MB in 12 us, o 9.4 MB
// in 7.5, gate and up 56.6 MB in 24.5, down 28.3 or 41.3 MB in 18.4, lm_head 510 MB in 183. About 400
// operations of a warp for a tile of Q4_K: 2 million tiles of a step are 1.5 million cycles of each
// scheduler, 0.9 ms.
template <typename First, typename Second>
__global__ void __launch_bounds__(FewTokenSmallShape::kThreads, 2)
    few_token_small_kernel(const __grid_constant__ FewTokenParams p,
                           const __grid_constant__ FewTokenSmallPlan plan) {
  auto* shared = dynamic_shared<unsigned char>();
  grid_dependency_launch();
  int index = 0;
  while (index + 1 < p.run_count && static_cast<int>(blockIdx.x) >= plan.first_block[index + 1]) ++index;
  if (std::is_same_v<First, Second> || p.runs[index].dtype == First::kDType) {
    take_small_rows<First>(p, plan, index, shared);
  } else {
    take_small_rows<Second>(p, plan, index, shared);
  }
}

int ceil_div(int n, int d) { return (n + d - 1) / d; }
int rounded_up(int n, int multiple) { return ceil_div(n, multiple) * multiple; }

// Blocks for each run so that the bytes of the block with the most are fewest; how many blocks in all.
int share_blocks(const FewTokenParams& p, int64_t most_bytes, int (&blocks)[kMaxLinearGroup]) {
  const int together = p.activate == Activate::kGate ? 2 : 1;
  int all = 0;
  for (int i = 0; i < p.run_count; ++i) {
    const int unit_bytes = together * slot_bytes_of(p.runs[i].dtype) * 2 / halves_of(p.runs[i].dtype);
    const auto units_of_block = static_cast<int>(std::max<int64_t>(1, most_bytes / unit_bytes));
    blocks[i] = ceil_div(p.runs[i].tiles / together, units_of_block);
    all += blocks[i];
  }
  return all;
}

int cut_rows(const FewTokenParams& p, int most_blocks, FewTokenSmallPlan& plan) {
  // The bytes of a block's column of tiles: the least that is enough lies between 0 and all.
  int64_t low = 0, high = 0;
  for (int i = 0; i < p.run_count; ++i)
    high += int64_t{p.runs[i].tiles} * slot_bytes_of(p.runs[i].dtype) * 2 / halves_of(p.runs[i].dtype);
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (share_blocks(p, middle, plan.blocks) <= most_blocks ? high : low) = middle;
  }
  int all = share_blocks(p, high, plan.blocks);
  // Every multiprocessor gets its block, so that those of the next kernel are spread evenly too: they start
  // beside these, and two on one multiprocessor would take twice as long.
  const int together = p.activate == Activate::kGate ? 2 : 1;
  for (int i = 0; i < p.run_count && all < most_blocks; ++i) {
    const int more = std::min(most_blocks - all, p.runs[i].tiles / together - plan.blocks[i]);
    plan.blocks[i] += more;
    all += more;
  }
  int first = 0;
  for (int i = 0; i < p.run_count; ++i) {
    plan.first_block[i] = first;
    first += plan.blocks[i];
  }
  return all;
}

int lay_out_shared(const FewTokenParams& p, FewTokenSmallPlan& plan, int slots) {
  plan.row_bytes = 2 * kTileColumns * plan.slice_tiles + 64;
  int at = 0;
  const auto take = [&at](int bytes) {
    const int begin = at;
    at += rounded_up(bytes, 128);
    return begin;
  };
  take(p.tokens * plan.row_bytes);
  plan.reductions = take(FewTokenSmallShape::kWarps * 8);
  plan.factors = take(p.tokens * 4);
  plan.partials = take(FewTokenSmallShape::kWarps * plan.partial_slots * kTileRows * p.tokens * 4);
  bool has_nf4 = false;
  plan.ring_slot = 0;
  for (int i = 0; i < p.run_count; ++i) {
    has_nf4 = has_nf4 || p.runs[i].dtype == DType::kNF4;
    plan.ring_slot = std::max(plan.ring_slot, slot_bytes_of(p.runs[i].dtype));
  }
  plan.table = take(has_nf4 ? Nf4Weights::kTableBytes : 0);
  plan.ring_slots = slots;
  plan.ring = take(FewTokenSmallShape::kWarps * slots * plan.ring_slot);
  return at;
}

// The longest rings that fit: beside another block of their size, else alone. The bytes in all.
int fit_shared(const FewTokenMachine& machine, const FewTokenParams& p, FewTokenSmallPlan& plan) {
  constexpr int kMostTiles = 4, kReserved = 1024;  // bytes of shared memory that each block costs besides
  if (machine.ring_tiles > 0) {
    const int bytes = lay_out_shared(p, plan, machine.ring_tiles);
    if (bytes <= static_cast<int>(machine.shared_bytes)) return bytes;
  }
  const auto half = static_cast<int>((machine.shared_bytes + kReserved) / 2) - kReserved;
  for (int slots = kMostTiles; slots >= 2; --slots) {
    const int bytes = lay_out_shared(p, plan, slots);
    if (bytes <= half) return bytes;
  }
  for (int slots = kMostTiles; slots > 2; --slots) {
    const int bytes = lay_out_shared(p, plan, slots);
    if (bytes <= static_cast<int>(machine.shared_bytes)) return bytes;
  }
  return lay_out_shared(p, plan, 2);
}

}  // namespace

bool plan_few_token_small(const FewTokenMachine& machine, FewTokenParams& p, FewTokenSmallPlan& plan,
                          LaunchShape& shape) {
  if (p.tokens > kFewTokenSmallMost) return false;
  // With more tokens it is faster to make operands of them once than in every block.
  constexpr int kMostOwnOperands = 2;
  plan.has_operands = p.tokens > kMostOwnOperands;
  // The activations of a slice take up to 120 KiB; a norm needs rows that who makes operands sees whole.
  constexpr int kMostSliceTiles = 240;
  p.slices = ceil_div(p.column_tiles * p.tokens, kMostSliceTiles);
  plan.slice_tiles = ceil_div(p.column_tiles, p.slices);
  p.slices = ceil_div(p.column_tiles, plan.slice_tiles);
  if (p.slices > 1 && p.norm != nullptr) plan.has_operands = true;
  const int most_blocks = machine.multiprocessors * machine.blocks_per_multiprocessor / p.slices;
  if (most_blocks < p.run_count) return false;
  const int blocks = cut_rows(p, most_blocks, plan);
  constexpr int kPhaseRows = 2;  // of a warp, which begins within one row of tiles and may end within another
  plan.phase_rows = kPhaseRows * FewTokenSmallShape::kWarps;
  plan.partial_slots = kPhaseRows + 2;
  plan.token_warps = FewTokenSmallShape::kWarps;
  while (plan.token_warps * p.tokens > FewTokenSmallShape::kWarps) plan.token_warps /= 2;
  const int shared_bytes = fit_shared(machine, p, plan);
  if (static_cast<size_t>(shared_bytes) > machine.shared_bytes) return false;
  shape.grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(p.slices));
  shape.block = FewTokenSmallShape::kThreads;
  shape.shared_bytes = static_cast<size_t>(shared_bytes);
  return true;
}

void launch_few_token_small(CudaStream& stream, const FewTokenParams& p, const FewTokenSmallPlan& plan,
                            const LaunchShape& shape) {
  const bool known = with_weights(p, [&]<typename First, typename Second>(First, Second) {
    launch(stream, "few_token_small", shape, few_token_small_kernel<First, Second>, p, plan);
  });
  ONGGI_CHECK(known);
}

}  // namespace onggi::cuda

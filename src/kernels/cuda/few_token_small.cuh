// The kernel of few_token_small.h.
//
// A block has neighbouring tiles of rows of one run and a slice of K, whose activations it keeps in shared
// memory. Its tiles, row after row, are shared out evenly to its warps, so that each warp reads one stretch
// of memory, through a ring of its own in shared memory that asynchronous copies keep full. The first copies
// begin before the kernel before has ended: weights do not depend on it. Where a row of tiles ends a warp
// leaves its sums in shared memory; the block adds them up, in the order of the columns, and finishes the
// outputs.
//
// One or two tokens: weights are multiplied as they are stored, and sums are scaled (few_token_scaled.cuh).
#pragma once

#include <type_traits>

#include "kernels/cuda/few_token_scaled.cuh"
#include "kernels/cuda/few_token_small.h"
#include "kernels/cuda/few_token_weights.cuh"

namespace onggi::cuda {

// n / divisor for small n.
struct Divider {
  float inverse;
  __device__ __forceinline__ explicit Divider(int divisor) : inverse(1.0f / static_cast<float>(divisor)) {}
  __device__ __forceinline__ int quotient(int n) const {
    return static_cast<int>((static_cast<float>(n) + 0.5f) * inverse);
  }
};

// Which steps of a phase are a warp's: neighbours in the order of rows.
struct WarpShare {
  int row, column;  // of the first step; row of the run
  int count;
};

// Tiles that a warp takes at a time.
template <typename Weights, SmallInput kInput>
inline constexpr int kSmallStep = kInput == SmallInput::kOwn ? ScaledTile<Weights>::kStep : 1;

// The block's rows of tiles, in phases.
template <SmallInput kInput>
struct SmallRows {
  using Shape = SmallShape<kInput>;
  int begin, end;  // of the run
  int across;      // steps of a row in the slice

  __device__ __forceinline__ int rows(int first) const { return min(Shape::kPhaseRows, end - first); }
  __device__ __forceinline__ int share(int first) const {
    return (rows(first) * across + Shape::kWarps - 1) / Shape::kWarps;
  }
  // Slots for what warps leave of a row.
  __device__ __forceinline__ int row_slots(int share) const {
    return min(Shape::kWarps, (across - 1) / share + 2);
  }
  __device__ __forceinline__ WarpShare warp_share(int first) const {
    const int all = rows(first) * across, each = share(first), from = min(warp_index() * each, all);
    return {first + from / across, from % across, min(each, all - from)};
  }
};

// A warp's ring: what is copied next, through all phases.
template <typename Weights, SmallInput kInput>
struct SmallRing {
  const FewTokenParams& p;
  const FewTokenRun& run;
  const SmallRows<kInput>& rows;
  unsigned char* const slots;
  const int slot_bytes, all_slots_bytes;
  const int first_column;  // tile of the slice's first column
  int phase;               // first row of the phase of the next tile
  WarpShare next;
  typename Weights::Source source{};
  int to = 0;  // bytes to the slot of the next tile

  __device__ __forceinline__ SmallRing(const FewTokenParams& params, const FewTokenRun& of,
                                       const SmallRows<kInput>& block_rows, unsigned char* ring,
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
    source.seek(p, p.members[owner.member], owner.tile,
                first_column + kSmallStep<Weights, kInput> * next.column);
  }

  // Queues the copies of one step, or of none where no more are left, as one group.
  __device__ __forceinline__ void issue() {
    if (next.count > 0) {
#pragma unroll
      for (int i = 0; i < kSmallStep<Weights, kInput>; ++i)
        source.issue(slots + to + i * Weights::kSlotBytes);
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
      phase += SmallShape<kInput>::kPhaseRows;
      if (phase >= rows.end) return;
      next = rows.warp_share(phase);
    }
    seek();
  }
};

// Until at most `pending` groups are on their way.
__device__ __forceinline__ void wait_for_copies(int pending) {
  static_assert(kSmallRingMost == 6);
  if (pending >= 4) {
    cp_async_wait<4>();
  } else if (pending == 3) {
    cp_async_wait<3>();
  } else if (pending == 2) {
    cp_async_wait<2>();
  } else if (pending == 1) {
    cp_async_wait<1>();
  } else {
    cp_async_wait<0>();
  }
}

// What a thread brings of x, times the norm's weight, into shared memory: eights of columns of a token.
template <typename Weights>
class OwnInput {
  // Eights that a thread keeps, and eights of the norm's weights; others are read twice, or late.
  static constexpr bool kIsNf4 = std::is_same_v<Weights, Nf4Weights>;  // which has fewer registers
  static constexpr int kHeld = kIsNf4 ? 3 : 6, kHeldNorms = kIsNf4 ? 2 : 3;

 public:
  // Reads what does not depend on the kernel before.
  __device__ __forceinline__ OwnInput(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                      int first_column)
      : token_(warp_index() / plan.token_warps),
        step_(kWarp * plan.token_warps),
        eights_(min(plan.slice_tiles, p.column_tiles - first_column) * (kTileColumns / 8)),
        begin_(kWarp * (warp_index() % plan.token_warps) + lane_index()),
        first_k_(kTileColumns * first_column) {
    if (p.norm == nullptr) return;
#pragma unroll
    for (int i = 0; i < kHeldNorms; ++i)
      if (begin_ + i * step_ < eights_) load_whole_norm_8(p, first_k_ + 8 * (begin_ + i * step_), norm_[i]);
  }

  // And into factors what finished sums are multiplied with: the norm's 1 / rms(x) and, for f16 and bf16, the
  // inverses of the activations' powers of two. Ends with a barrier.
  __device__ __forceinline__ void stage(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                        unsigned char* shared) {
    if (ScaledTile<Weights>::kIsThere && threadIdx.x < kScaledZeroBytes / 4)
      reinterpret_cast<uint32_t*>(shared + plan.zeros)[threadIdx.x] = 0;
    if constexpr (ScaledTile<Weights>::kHasBytes) {
      stage_bytes(p, plan, shared);
    } else {
      stage_halves(p, plan, shared);
    }
  }

 private:
  __device__ __forceinline__ bool has_token(const FewTokenParams& p) const { return token_ < p.tokens; }
  __device__ __forceinline__ unsigned char* row(const FewTokenSmallPlan& plan, unsigned char* shared) const {
    return shared + plan.activations + token_ * plan.row_bytes;
  }
  // take(eight, x's values, the norm's) of the thread's eights, of which the first kHeld are read together.
  template <typename Take>
  __device__ __forceinline__ void for_held(const FewTokenParams& p, float (&held)[kHeld][8],
                                           const Take& take) {
    if (!has_token(p)) return;
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (begin_ + i * step_ < eights_) load_whole_8(p, token_, first_k_ + 8 * (begin_ + i * step_), held[i]);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int eight = begin_ + i * step_;
      if (eight >= eights_) break;
      float late[8];
      if (i >= kHeldNorms && p.norm != nullptr) load_whole_norm_8(p, first_k_ + 8 * eight, late);
      take(eight, held[i], i < kHeldNorms ? norm_[i < kHeldNorms ? i : 0] : late);
    }
  }
  template <typename Take>
  __device__ __forceinline__ void for_others(const FewTokenParams& p, const Take& take) const {
#pragma unroll 1
    for (int eight = begin_ + kHeld * step_; has_token(p) && eight < eights_; eight += step_) {
      float values[8], norm[8] = {};
      load_whole_8(p, token_, first_k_ + 8 * eight, values);
      if (p.norm != nullptr) load_whole_norm_8(p, first_k_ + 8 * eight, norm);
      take(eight, values, norm);
    }
  }
  // The token's 1 / rms(x) from the sum of its squares.
  static __device__ __forceinline__ float norm_factor(const FewTokenParams& p, float square) {
    return p.norm == nullptr ? 1.0f : rsqrtf(square / static_cast<float>(p.columns) + p.epsilon);
  }

  // Blocks have units of their own: what is read is written at once.
  __device__ __forceinline__ void stage_bytes(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                              unsigned char* shared) {
    float square = 0;
    auto* blocks = reinterpret_cast<float*>(shared + plan.block_factors) + token_ * plan.block_factors_stride;
    const auto take = [&](int eight, float(&values)[8], const float(&norm)[8]) {
      if (p.norm != nullptr) {
        square += squares_of(values);
        scale_8(values, norm);
      }
      ScaledTile<Weights>::leave(values, eight, row(plan, shared), blocks);
    };
    float held[kHeld][8];
    for_held(p, held, take);
    for_others(p, take);
    auto* reductions = reinterpret_cast<float*>(shared + plan.reductions);
    square = warp_sum(square);
    if (lane_index() == 0) reductions[warp_index()] = square;
    __syncthreads();
    // Not before: what the next kernel's blocks fetch ahead would keep the activations waiting.
    grid_dependency_launch();
    // Nobody needs it before the next barrier.
    if (!has_token(p) || begin_ != 0) return;
    square = 0;
    for (int warp = 0; warp < plan.token_warps; ++warp)
      square += reductions[token_ * plan.token_warps + warp];
    reinterpret_cast<float*>(shared + plan.factors)[token_] = norm_factor(p, square);
  }

  // The largest magnitude of all comes first.
  __device__ __forceinline__ void stage_halves(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                               unsigned char* shared) {
    constexpr Operands kOperands = Weights::kOperands;
    float held[kHeld][8];
    float square = 0, largest = 0;
    const auto count = [&](int, float(&values)[8], const float(&norm)[8]) {
      if (p.norm != nullptr) {
        square += squares_of(values);
        scale_8(values, norm);
      }
      largest = fmaxf(largest, largest_of(values));
    };
    for_held(p, held, count);
    for_others(p, count);
    auto* reductions = reinterpret_cast<float2*>(shared + plan.reductions);
    square = warp_sum(square);
    largest = warp_max(largest);
    if (lane_index() == 0) reductions[warp_index()] = make_float2(square, largest);
    __syncthreads();
    grid_dependency_launch();
    if (has_token(p)) {
      constexpr int kMostWarps = SmallShape<SmallInput::kOwn>::kWarps;
      const int of_lane = lane_index() % kMostWarps;
      const float2 of_warp =
          of_lane < plan.token_warps ? reductions[token_ * plan.token_warps + of_lane] : make_float2(0, 0);
      square = warp_sum<kMostWarps>(of_warp.x);
      const PowerOfTwo power = power_for(warp_max<kMostWarps>(of_warp.y));
      if (begin_ == 0)
        reinterpret_cast<float*>(shared + plan.factors)[token_] = power.inverse * norm_factor(p, square);
      const auto write = [&](int eight, const float(&values)[8]) {
        *reinterpret_cast<uint4*>(row(plan, shared) + 2 * place_of_column(kOperands, 8 * eight)) =
            pack_operands(kOperands, power.scale, values);
      };
#pragma unroll
      for (int i = 0; i < kHeld; ++i)
        if (begin_ + i * step_ < eights_) write(begin_ + i * step_, held[i]);
      for_others(p, [&](int eight, float(&values)[8], const float(&norm)[8]) {
        if (p.norm != nullptr) scale_8(values, norm);
        write(eight, values);
      });
    }
    __syncthreads();
  }

  int token_, step_;
  int eights_, begin_;  // eights of the slice, the thread's first
  int first_k_;
  float norm_[kHeldNorms][8];
};

// Brings the slice of x into shared memory where launch_few_token_operands has made operands of it.
__device__ __forceinline__ void copy_operands(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                              Operands operands, int first_column, unsigned char* shared) {
  const int pieces = min(plan.slice_tiles, p.column_tiles - first_column) * (kTileColumns / 8);
  const int64_t row_bytes = int64_t{2} * kTileColumns * p.column_tiles;
  const auto* from = static_cast<const unsigned char*>(operands == Operands::kF16 ? p.f16 : p.bf16) +
                     2 * kTileColumns * first_column;
  for (int token = 0; token < p.tokens; ++token, from += row_bytes)
    for (int piece = threadIdx.x; piece < pieces; piece += SmallShape<SmallInput::kOperands>::kThreads)
      cp_async_16(shared + plan.activations + token * plan.row_bytes + 16 * piece, from + 16 * piece);
  if (static_cast<int>(threadIdx.x) < p.tokens)
    reinterpret_cast<float*>(shared + plan.factors)[threadIdx.x] =
        p.slices == 1 ? p.factors[threadIdx.x] : 1.0f;
  cp_async_commit();
  cp_async_wait<0>();
}

struct PlainSums {
  float of[2][4];  // of products in turns, so that fewer wait for each other
};

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
template <typename Weights>
__device__ __forceinline__ void leave_sums(int tokens, float* slot, ScaledSums& sums) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // The lanes of a group have different columns.
    const float sum = warp_sum<4>(sums.of[i]);
    if (pair == i % 2 && pair < tokens) slot[kTileRows * pair + group + 8 * (i / 2)] = sum;
    sums.of[i] = 0;
  }
}
template <typename Weights>
__device__ __forceinline__ void leave_sums(int tokens, float* slot, PlainSums& sums) {
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = 2 * pair + i % 2;
    if (token < tokens) slot[kTileRows * token + group + 8 * (i / 2)] = sums.of[0][i] + sums.of[1][i];
    sums.of[0][i] = sums.of[1][i] = 0;
  }
}

// The activations as the lane's operands, and how a tile is multiplied with them.
template <typename Weights, bool kScaled>
struct SmallActivations {
  using Sums = PlainSums;
  const unsigned char* x;
  // Columns of tokens that are not there repeat one that is: nobody reads their sums.
  __device__ __forceinline__ SmallActivations(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                              const unsigned char* shared)
      : x(shared + plan.activations + min(lane_index() / 4, p.tokens - 1) * plan.row_bytes +
          16 * (lane_index() % 4)) {}
  __device__ __forceinline__ void multiply(const WeightTables& tables, const unsigned char* slot, int column,
                                           Sums& sums) const {
    multiply_small_tile<Weights>(tables, slot, x + 256 * Weights::kHalves * column, sums.of);
  }
};
template <typename Weights>
struct SmallActivations<Weights, true> {
  using Sums = ScaledSums;
  ScaledOperands x;
  __device__ __forceinline__ SmallActivations(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                              unsigned char* shared)
      : x(ScaledTile<Weights>::operands(plan, shared, p.tokens)) {}
  __device__ __forceinline__ void multiply(const WeightTables& tables,
                                           const typename ScaledTile<Weights>::Tile& tile, int column,
                                           Sums& sums) const {
    ScaledTile<Weights>::multiply(tables, tile, x, column, sums);
  }
};

// Output i of a phase: a row of a tile (of gate and up where there are two) for a token.
struct SmallOutput {
  int tile, row_in_tile, token;
  __device__ __forceinline__ SmallOutput(int i, int outputs, bool gated) {
    row_in_tile = i % kTileRows;
    token = Divider(outputs).quotient(i / kTileRows);
    const int output = i / kTileRows - token * outputs;
    tile = gated ? 2 * output : output;
  }
};

// Finishes the outputs of a phase from what the warps left. In the first one, `first_residual` is what the
// thread's first output takes.
template <SmallInput kInput>
__device__ __forceinline__ void finish_phase(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                             const FewTokenRun& run, const SmallRows<kInput>& rows, int first,
                                             const unsigned char* shared, bool is_first,
                                             float first_residual) {
  const auto* partials = reinterpret_cast<const float*>(shared + plan.partials);
  const auto* factors = reinterpret_cast<const float*>(shared + plan.factors);
  const bool gated = p.activate == Activate::kGate;
  const int outputs = gated ? rows.rows(first) / 2 : rows.rows(first);
  const int share = rows.share(first), row_slots = rows.row_slots(share), slot_floats = kTileRows * p.tokens;
  const Divider by_share(share);
  const auto sum_of = [&](int row, int at) {
    const int begin = row * rows.across;
    const int more = by_share.quotient(begin + rows.across - 1) - by_share.quotient(begin);
    const float* of_warp = partials + row * row_slots * slot_floats + at;
    float sum = of_warp[0];
    for (int i = 1; i <= more; ++i) sum += of_warp[i * slot_floats];
    return sum;
  };
#pragma unroll 1
  for (int i = threadIdx.x; i < kTileRows * outputs * p.tokens; i += SmallShape<kInput>::kThreads) {
    const SmallOutput output(i, outputs, gated);
    const int at = kTileRows * output.token + output.row_in_tile;
    const TileOwner owner = tile_owner(p, run, first + output.tile);
    const FewTokenMember& member = p.members[owner.member];
    const int row = kTileRows * owner.tile + output.row_in_tile;
    const float sum = factors[output.token] * sum_of(output.tile, at);
    const float second = gated ? factors[output.token] * sum_of(output.tile + 1, at) : 0.0f;
    if (p.partials != nullptr) {
      store_partial(p, member, row, output.token, sum);
      if (gated) store_partial(p, p.members[1], row, output.token, second);
    } else if (row < member.rows) {
      if (gated) {
        store_gated(p, row, output.token, sum, second);
      } else {
        const bool has_residual = is_first && i == static_cast<int>(threadIdx.x);
        store_output(p, member, row, output.token, sum,
                     has_residual ? first_residual : residual_of(p, member, row, output.token));
      }
    }
  }
}

// What finish_phase takes for the first output of the thread in the block's first phase, read early.
template <SmallInput kInput>
__device__ __forceinline__ float first_residual(const FewTokenParams& p, const FewTokenRun& run,
                                                const SmallRows<kInput>& rows) {
  const int outputs = rows.rows(rows.begin), i = static_cast<int>(threadIdx.x);
  if (p.residual == nullptr || p.partials != nullptr || i >= kTileRows * outputs * p.tokens) return 0;
  const SmallOutput output(i, outputs, false);
  const TileOwner owner = tile_owner(p, run, rows.begin + output.tile);
  const FewTokenMember& member = p.members[owner.member];
  const int row = kTileRows * owner.tile + output.row_in_tile;
  return row < member.rows ? residual_of(p, member, row, output.token) : 0.0f;
}

template <typename Weights, SmallInput kInput>
__device__ __forceinline__ void take_small_rows(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                                int index, unsigned char* shared) {
  const FewTokenRun& run = p.runs[index];
  const int block = static_cast<int>(blockIdx.x) - plan.first_block[index];
  constexpr int kParts = 2 / Weights::kHalves;  // tiles of 256 columns
  constexpr int kStep = kSmallStep<Weights, kInput>;
  constexpr bool kScaled = kInput == SmallInput::kOwn && ScaledTile<Weights>::kIsThere;
  const int slice_first = static_cast<int>(blockIdx.y) * plan.slice_tiles;
  // Gate and up stay together.
  const int together = p.activate == Activate::kGate ? 2 : 1, units = run.tiles / together;
  const SmallRows<kInput> rows{together * (block * units / plan.blocks[index]),
                               together * ((block + 1) * units / plan.blocks[index]),
                               kParts * min(plan.slice_tiles, p.column_tiles - slice_first) / kStep};
  unsigned char* ring_begin = shared + plan.ring + warp_index() * plan.ring_slots * plan.ring_slot;
  SmallRing<Weights, kInput> ring(p, run, rows, ring_begin, plan, kParts * slice_first);
#pragma unroll 1
  for (int i = kScaled ? 0 : 1; i < plan.ring_slots; ++i) ring.issue();
  if constexpr (std::is_same_v<Weights, Nf4Weights>) Nf4Weights::fill_table(p.nf4_tables, shared);
  float residual;
  const auto wait = [&] {
    if (!plan.waits_late) grid_dependency_wait();
    if (plan.input_is_there != nullptr) {
      if (threadIdx.x == 0) {
        wait_until_nonzero(plan.input_is_there);
        atomicSub(plan.input_is_there, 1u);
      }
      __syncthreads();
    }
    residual = first_residual(p, run, rows);
  };
  if constexpr (kInput == SmallInput::kOperands) {
    wait();
    copy_operands(p, plan, Weights::kOperands, slice_first, shared);
    __syncthreads();
    // Not before: what the next kernel's blocks fetch ahead would keep the activations waiting.
    grid_dependency_launch();
  } else {
    OwnInput<Weights> input(p, plan, slice_first);
    wait();
    input.stage(p, plan, shared);
  }

  const SmallActivations<Weights, kScaled> x(p, plan, shared);
  const int slot_floats = kTileRows * p.tokens;
  typename SmallActivations<Weights, kScaled>::Sums sums{};
  int from = 0;
#pragma unroll 1
  for (int first = rows.begin; first < rows.end; first += SmallShape<kInput>::kPhaseRows) {
    WarpShare own = rows.warp_share(first);
    const int share = rows.share(first), row_slots = rows.row_slots(share);
    const Divider by_share(share);
    auto* left = reinterpret_cast<float*>(shared + plan.partials);
#pragma unroll 1
    for (; own.count > 0; --own.count) {
      wait_for_copies(plan.ring_slots - (kScaled ? 1 : 2));
      __syncwarp();  // what all lanes copied is there; and the slot that is filled next was read by all
      WeightTables tables(nullptr, shared);
      if constexpr (std::is_same_v<Weights, Nf4Weights>)
        tables.member = &p.members[tile_owner(p, run, own.row).member];
      const unsigned char* slot = ring_begin + from;
      if constexpr (kScaled) {
        typename ScaledTile<Weights>::Tile tiles[kStep];
#pragma unroll
        for (int i = 0; i < kStep; ++i)
          tiles[i] = ScaledTile<Weights>::load(tables, slot + i * Weights::kSlotBytes);
        __syncwarp();
        ring.issue();
#pragma unroll
        for (int i = 0; i < kStep; ++i) x.multiply(tables, tiles[i], kStep * own.column + i, sums);
      } else {
        ring.issue();
        x.multiply(tables, slot, own.column, sums);
      }
      from = from + plan.ring_slot == plan.ring_slots * plan.ring_slot ? 0 : from + plan.ring_slot;
      if (++own.column == rows.across || own.count == 1) {
        const int row = own.row - first;
        const int slot = row * row_slots + warp_index() - by_share.quotient(row * rows.across);
        leave_sums<Weights>(p.tokens, left + slot * slot_floats, sums);
      }
      if (own.column == rows.across) {
        own.column = 0;
        ++own.row;
      }
    }
    if (first == rows.begin && plan.waits_late) grid_dependency_wait();
    __syncthreads();
    finish_phase(p, plan, run, rows, first, shared, first == rows.begin, residual);
    if (first + SmallShape<kInput>::kPhaseRows < rows.end)
      __syncthreads();  // the next phase leaves its sums there
  }
  cp_async_wait<0>();
}

// On an H200, Qwen3-8B in Q4_K_M, one token, launch after launch: q, k and v 14.2 MB in 9 us, o 9.4 MB
// in 6.2, gate and up 56.6 MB in 16.2, down 28.3 or 41.3 MB in 15, lm_head 510 MB in 127. About 5 us of each
// launch go by before the weights flow and after the last of them. Two blocks have room on a multiprocessor.
// NF4, which adapters are for, leaves room for few_token_lora_input's besides, so that the next kernel's
// blocks start before those have ended: 96 registers instead of 128.
template <typename Weights, SmallInput kInput>
inline constexpr int kBoundThreads = SmallShape<kInput>::kThreads +
                                     (std::is_same_v<Weights, Nf4Weights> && kInput == SmallInput::kOwn
                                          ? kWarp
                                          : 0);

template <typename First, typename Second, SmallInput kInput>
__global__ void __launch_bounds__(kBoundThreads<First, kInput>, 2)
    few_token_small_kernel(const __grid_constant__ FewTokenParams p,
                           const __grid_constant__ FewTokenSmallPlan plan) {
  auto* shared = dynamic_shared<unsigned char>();
  const int index = run_of_block(p, plan.first_block);
  if (std::is_same_v<First, Second> || p.runs[index].dtype == First::kDType) {
    take_small_rows<First, kInput>(p, plan, index, shared);
  } else {
    take_small_rows<Second, kInput>(p, plan, index, shared);
  }
}

template <SmallInput kInput>
void launch_small(CudaStream& stream, const char* op, const FewTokenParams& p, const FewTokenSmallPlan& plan,
                  const LaunchShape& shape) {
  const bool known = with_weights(p, [&]<typename First, typename Second>(First, Second) {
    // Runs of other dtypes are launches of their own where blocks make their operands.
    if constexpr (kInput == SmallInput::kOperands || std::is_same_v<First, Second>) {
      launch(stream, op, shape, few_token_small_kernel<First, Second, kInput>, p, plan);
    } else {
      ONGGI_CHECK(false, "weights of one dtype");
    }
  });
  ONGGI_CHECK(known);
}

}  // namespace onggi::cuda

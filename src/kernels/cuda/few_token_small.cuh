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

#include "kernels/cuda/few_token_adapters.cuh"
#include "kernels/cuda/few_token_scaled.cuh"
#include "kernels/cuda/few_token_small.h"
#include "kernels/cuda/few_token_small_adapters.cuh"
#include "kernels/cuda/few_token_weights.cuh"

namespace onggi::cuda {

// Which steps of a phase are a warp's: neighbours in the order of rows.
struct WarpShare {
  int row, column;  // of the first step; row of the run
  int count;
};

// Tiles that a warp takes at a time.
template <typename Weights, SmallInput kInput>
inline constexpr int kSmallStep = makes_own(kInput) ? ScaledTile<Weights>::kStep : 1;

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
    return min(Shape::kWarps, Divider(share).quotient(across - 1) + 2);
  }
  __device__ __forceinline__ WarpShare warp_share(int first) const {
    const int all = rows(first) * across, each = share(first), from = min(warp_index() * each, all);
    const int row = Divider(across).quotient(from);
    return {first + row, from - row * across, min(each, all - from)};
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
  bool seeks = true;  // the next tile begins a row, or is the first one
  int to = 0;         // bytes to the slot of the next tile

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
        next(block_rows.warp_share(block_rows.begin)) {}

  // Queues the copies of one step, or of none where no more are left, as one group.
  __device__ __forceinline__ void issue() {
    while (next.count == 0 && phase + SmallShape<kInput>::kPhaseRows < rows.end) {
      phase += SmallShape<kInput>::kPhaseRows;
      next = rows.warp_share(phase);
      seeks = true;
    }
    if (next.count > 0) {
      if (seeks) {
        const TileOwner owner = tile_owner(p, run, next.row);
        source.seek(p, p.members[owner.member], owner.tile,
                    first_column + kSmallStep<Weights, kInput> * next.column);
      }
#pragma unroll
      for (int i = 0; i < kSmallStep<Weights, kInput>; ++i)
        source.issue(slots + to + i * Weights::kSlotBytes);
      --next.count;
      seeks = ++next.column == rows.across;
      if (seeks) {
        next.column = 0;
        ++next.row;
      }
      to = to + slot_bytes == all_slots_bytes ? 0 : to + slot_bytes;
    }
    cp_async_commit();
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

// What a thread brings of x, times the norm's weight, into shared memory: eights of columns of a token, two
// at a time. The code of that is there once, since a launch's first pass through instructions is slow: what
// it needs next waits in registers that move on. On the way they are multiplied by the block's rows of A.
template <typename Weights, bool kAdapted>
class OwnInput {
 public:
  // Reads what does not depend on the kernel before.
  __device__ __forceinline__ OwnInput(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                      int first_column)
      : token_(warp_index() / plan.token_warps),
        step_(kWarp * plan.token_warps),
        eights_(token_ < p.tokens ? min(plan.slice_tiles, p.column_tiles - first_column) * (kTileColumns / 8)
                                  : 0),
        filled_(min(eights_, (p.columns - kTileColumns * first_column) / 8)),
        begin_(kWarp * (warp_index() % plan.token_warps) + lane_index()),
        is_bf16_(p.x_is_bf16),
        x_(static_cast<const unsigned char*>(p.x) +
           (is_bf16_ ? 2 : 4) * (token_ * p.x_stride + kTileColumns * first_column + 8 * begin_)),
        norm_(p.norm == nullptr ? nullptr : p.norm + kTileColumns * first_column),
        ranks_(p, plan) {
    load_columns(begin_);
    if constexpr (kAdapted) {
      if (ranks_.row() == nullptr) return;
#pragma unroll 1
      for (int eight = begin_ + 2 * step_; eight < filled_; eight += step_)
        prefetch_l2(ranks_.row() + 8 * eight);
    }
  }

  // And into factors what finished sums are multiplied with: the norm's 1 / rms(x) and, where activations
  // have one unit, that. Ends with a barrier.
  __device__ __forceinline__ void stage(const FewTokenParams& p, const FewTokenSmallPlan& plan, uint32_t tag,
                                        unsigned char* shared) {
    auto* reductions = reinterpret_cast<float*>(shared + plan.reductions);
    unsigned char* row = shared + plan.activations + token_ * plan.row_bytes;
    auto* blocks = reinterpret_cast<float*>(shared + plan.block_factors) + token_ * plan.block_factors_stride;
    const Ranks first_ranks = ranks_;
    PowerOfTwo power{};
    // Each of the block's rows of A is a turn. Scaled activations are left in the first one, others in one
    // that comes after all, when the largest magnitude of all is known.
    bool leaves = kScaled;
#pragma unroll 1
    for (int turn = 0;; ++turn) {
      float largest = 0;
      Found found{};
      for_own(found, [&](int eight, const float(&values)[8]) {
        if constexpr (kScaled) {
          if (leaves) ScaledTile<Weights>::leave(values, eight, eight < eights_, row, blocks);
        } else if (!leaves) {
          largest = fmaxf(largest, largest_of(values));
        } else if (eight < eights_) {
          constexpr Operands kOperands = Weights::kOperands;
          *reinterpret_cast<uint4*>(row + 2 * place_of_column(kOperands, 8 * eight)) =
              pack_operands(kOperands, power.scale, values);
        }
      });
      if (!kScaled && leaves) break;
      float* of_warp = reductions + warp_index();
      if (turn == 0) {
        found.square = warp_sum(found.square);
        if constexpr (!kScaled) largest = warp_max(largest);
        if (lane_index() == 0) {
          of_warp[kWarps * kSquares] = found.square;
          if constexpr (!kScaled) of_warp[kWarps * kLargest] = largest;
        }
      }
      if (kAdapted && ranks_.is_one_left()) {
        found.dot = warp_sum(found.dot);
        if (lane_index() == 0) of_warp[kWarps * (kDots + turn)] = found.dot;
      }
      ranks_.next(p, plan);
      const bool is_last = !ranks_.is_one_left();
      if (is_last) {
        if constexpr (kScaled) {
          if (threadIdx.x < kScaledZeroBytes / 4)
            reinterpret_cast<uint32_t*>(shared + plan.zeros)[threadIdx.x] = 0;
        }
        __syncthreads();
        // Not before: what the next kernel's blocks fetch ahead would keep the activations waiting.
        grid_dependency_launch();
        if constexpr (!kScaled) power = power_for(warp_max<kWarps>(of_lane(plan, reductions, kLargest)));
        // Nobody needs them before the next barrier. The last warp has the least to multiply.
        if (warp_index() % plan.token_warps == plan.token_warps - 1 && eights_ > 0)
          finish(p, plan, tag, shared, reductions, first_ranks, power);
        if (kScaled) break;
      }
      leaves = !kScaled && is_last;
      load_columns(begin_);
    }
    if constexpr (!kScaled) __syncthreads();
  }

 private:
  static constexpr bool kScaled = ScaledTile<Weights>::kIsThere;
  static constexpr int kWarps = SmallShape<SmallInput::kOwn>::kWarps;
  // What each warp leaves.
  static constexpr int kSquares = 0, kLargest = 1, kDots = 2;
  // The sum of the squares, and the dot product with a row of A.
  struct Found {
    float square, dot;
  };
  struct NoRanks {
    __device__ __forceinline__ NoRanks(const FewTokenParams&, const FewTokenSmallPlan&) {}
    static constexpr bool is_one_left() { return false; }
    static constexpr const float* row() { return nullptr; }
    __device__ __forceinline__ void next(const FewTokenParams&, const FewTokenSmallPlan&) {}
  };
  using Ranks = std::conditional_t<kAdapted, OwnRanks, NoRanks>;

  // What the token's warps have left of one kind: the lane's, as often as a warp has them.
  __device__ __forceinline__ float of_lane(const FewTokenSmallPlan& plan, const float* reductions,
                                           int kind) const {
    const int warp = lane_index() % kWarps;
    return warp < plan.token_warps ? reductions[kWarps * kind + token_ * plan.token_warps + warp] : 0.0f;
  }
  // By one of the token's warps: its factor, and its u of the block's ranks.
  __device__ __forceinline__ void finish(const FewTokenParams& p, const FewTokenSmallPlan& plan, uint32_t tag,
                                         unsigned char* shared, const float* reductions, Ranks ranks,
                                         const PowerOfTwo& power) const {
    const float inverse_rms = norm_factor(p, warp_sum<kWarps>(of_lane(plan, reductions, kSquares)));
    if (lane_index() == 0)
      reinterpret_cast<float*>(shared + plan.factors)[token_] =
          kScaled ? inverse_rms : power.inverse * inverse_rms;
    if constexpr (kAdapted) {
#pragma unroll 1
      for (int kind = kDots; ranks.is_one_left(); ++kind) {
        const float dot = warp_sum<kWarps>(of_lane(plan, reductions, kind));
        if (lane_index() == 0) ranks.store(p, plan, tag, token_, inverse_rms * dot);
        ranks.next(p, plan);
      }
    }
  }

  // The norm's weights and those of A of two eights, from `eight` on.
  __device__ __forceinline__ void load_columns(int eight) {
    const auto load = [&](const float* from, float(&to)[2][8]) {
      if (from == nullptr) return;
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (eight + i * step_ < filled_) load_8(from + 8 * (eight + i * step_), to[i]);
    };
    load(norm_, norms_);
    if constexpr (kAdapted) load(ranks_.row(), of_a_);
  }
  // Pieces of 16 bytes from `eight` on, zeros beyond K: two eights of f32, or as many of bf16 as there are
  // pieces. Fewer for NF4, from when it had 96 registers.
  static constexpr int kPieces = std::is_same_v<Weights, Nf4Weights> ? 4 : 6;
  struct Pieces {
    uint4 of[kPieces];
  };
  __device__ __forceinline__ void load_pieces(int eight, Pieces& pieces) const {
    const int stride = 16 * step_;  // bytes of bf16 from eight to eight
    const unsigned char* at = x_ + (is_bf16_ ? 16 : 32) * (eight - begin_);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int own = eight + (is_bf16_ ? i : i / 2) * step_;
      pieces.of[i] = make_uint4(0, 0, 0, 0);
      if (own < filled_ && (is_bf16_ || i < 4))
        pieces.of[i] =
            *reinterpret_cast<const uint4*>(at + i / 2 * 2 * stride + i % 2 * (is_bf16_ ? stride : 16));
    }
  }

  // take(eight, its values times the norm's weights) of the thread's eights, of which the last may be beyond
  // the end; those of a warp take part together. The squares of x, where there is a norm, and the products
  // with a row of A, where there is one, are added to `found`.
  template <typename Take>
  __device__ __forceinline__ void for_own(Found& found, const Take& take) {
    Pieces pieces;
    int there = 0;  // eights of pieces
#pragma unroll 1
    for (int eight = begin_; eight < eights_; eight += 2 * step_) {
      if (there == 0) {
        load_pieces(eight, pieces);
        there = is_bf16_ ? kPieces : 2;
      }
      float values[2][8];
      if (is_bf16_) {
        unpack_bf16_8(pieces.of[0], values[0]);
        unpack_bf16_8(pieces.of[1], values[1]);
      } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint4 low = pieces.of[2 * i], high = pieces.of[2 * i + 1];
          const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
          for (int j = 0; j < 8; ++j) values[i][j] = __uint_as_float(words[j]);
        }
      }
#pragma unroll
      for (int i = 0; i + 2 < kPieces; ++i) pieces.of[i] = pieces.of[i + 2];
      there -= 2;
      if (norm_ != nullptr) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          found.square += squares_of(values[i]);
          scale_8(values[i], norms_[i]);
        }
      }
      if (kAdapted && ranks_.row() != nullptr) {
#pragma unroll
        for (int i = 0; i < 2; ++i) found.dot += dot_8(values[i], of_a_[i]);
      }
      load_columns(eight + 2 * step_);
      take(eight, values[0]);
      take(eight + step_, values[1]);
    }
  }

  int token_, step_;
  int eights_, filled_;  // of the slice, and those before the end of K
  int begin_;            // the thread's first
  bool is_bf16_;
  const unsigned char* x_;  // at the first
  const float* norm_;       // of the slice
  Ranks ranks_;
  float norms_[2][8] = {}, of_a_[2][8] = {};
};

// Brings the slice of x into shared memory where launch_few_token_inputs has made operands of it.
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

// Adds the adapter's part of a tile of rows. The grid's dependencies are there.
__device__ __forceinline__ void add_adapter_of_tile(const FewTokenParams& p, const FewTokenMember& member,
                                                    int tile, PlainSums& sums) {
#pragma unroll 1
  for (int first = 0; first < member.rank; first += kRanksTogether)
    add_adapter(AdapterRows(member, tile, first), AdapterInput(p, member, 0, first), sums.of[0]);
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
template <SmallInput kInput, bool kBringsAdapters>
__device__ __forceinline__ void finish_phase(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                             const FewTokenRun& run, const SmallRows<kInput>& rows, int first,
                                             const unsigned char* shared, bool is_first,
                                             float first_residual) {
  const auto* partials = reinterpret_cast<const float*>(shared + plan.partials);
  const auto* factors = reinterpret_cast<const float*>(shared + plan.factors);
  const bool gated = p.activate == Activate::kGate;
  const int together = gated ? 2 : 1, outputs = gated ? rows.rows(first) / 2 : rows.rows(first);
  const int share = rows.share(first), row_slots = rows.row_slots(share), slot_floats = kTileRows * p.tokens;
  const Divider by_share(share);
  const auto sum_of = [&](int row, int at) {
    const int begin = row * rows.across;
    const int more = by_share.quotient(begin + rows.across - 1) - by_share.quotient(begin);
    const float* of_warp = partials + row * row_slots * slot_floats + at;
    float sum = of_warp[0];
#pragma unroll 1
    for (int i = 1; i <= more; ++i) sum += of_warp[i * slot_floats];
    return sum;
  };
#pragma unroll 1
  for (int i = threadIdx.x; i < kTileRows * outputs * p.tokens; i += SmallShape<kInput>::kThreads) {
    const SmallOutput output(i, outputs, gated);
    const int at = kTileRows * output.token + output.row_in_tile;
    const float factor = factors[output.token];
    float gate = 0;
#pragma unroll 1
    for (int j = 0; j < together; ++j) {
      const TileOwner owner = tile_owner(p, run, first + output.tile + j);
      const FewTokenMember& member = p.members[owner.member];
      const int row = kTileRows * owner.tile + output.row_in_tile;
      const float sum = factor * sum_of(output.tile + j, at);
      if (p.partials != nullptr) {
        store_partial(p, member, row, output.token, sum);
        continue;
      }
      if (row >= member.rows) break;
      // Those of operands are there already.
      float adapted = sum;
      if (kInput == SmallInput::kAdapted && member.rank > 0) {
        const float* u = reinterpret_cast<const float*>(shared + plan.lora_u) +
                         first_of_u(p, plan, owner.member, output.token);
        const bool has_copies =
            kBringsAdapters && is_first && i == static_cast<int>(threadIdx.x) && plan.lora_row > 0;
        adapted += has_copies ? lora_term_of_copies(plan, member, together, j, shared, u)
                              : lora_term(member, row, u);
      }
      if (gated && j == 0) {
        gate = adapted;
      } else if (gated) {
        store_gated(p, row, output.token, gate, adapted);
      } else {
        const bool has_residual = is_first && i == static_cast<int>(threadIdx.x);
        store_activation(
            member.out, p.out_is_bf16, output_index(member, row, output.token),
            adapted + (has_residual ? first_residual : residual_of(p, member, row, output.token)));
      }
    }
  }
}

// Prepares the thread's first output in the block's first phase: fetches the rows of B that it needs, and
// returns where what is added to it lies; null: nowhere.
template <SmallInput kInput, bool kBringsAdapters>
__device__ __forceinline__ const void* prepare_output(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                                      const FewTokenRun& run, const SmallRows<kInput>& rows,
                                                      unsigned char* shared) {
  const bool gated = p.activate == Activate::kGate;
  const int together = gated ? 2 : 1, outputs = rows.rows(rows.begin) / together;
  const int i = static_cast<int>(threadIdx.x);
  if (p.partials != nullptr || i >= kTileRows * outputs * p.tokens) return nullptr;
  const SmallOutput output(i, outputs, gated);
  const void* residual = nullptr;
#pragma unroll 1
  for (int j = 0; j < together; ++j) {
    const TileOwner owner = tile_owner(p, run, rows.begin + output.tile + j);
    const FewTokenMember& member = p.members[owner.member];
    const int row = kTileRows * owner.tile + output.row_in_tile;
    if (row >= member.rows) break;
    const float* b = member.lora_b + static_cast<int64_t>(row) * member.rank;
    if (kBringsAdapters && plan.lora_row > 0) {
#pragma unroll 1
      for (int r = 0; r < member.rank; r += 4)
        cp_async_16(shared + plan.lora_b + (i * together + j) * plan.lora_row + 4 * r, b + r);
    } else {
#pragma unroll 1
      for (int r = 0; r < member.rank; r += 32) prefetch_l2(b + r);
    }
    if (p.residual != nullptr)
      residual = static_cast<const char*>(p.residual) +
                 (p.out_is_bf16 ? 2 : 4) * output_index(member, row, output.token);
  }
  return residual;
}

template <typename Weights, SmallInput kInput>
__device__ __forceinline__ void take_small_rows(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                                int index, unsigned char* shared) {
  const FewTokenRun& run = p.runs[index];
  const int block = static_cast<int>(blockIdx.x) - plan.first_block[index];
  constexpr int kParts = 2 / Weights::kHalves;  // tiles of 256 columns
  constexpr int kStep = kSmallStep<Weights, kInput>;
  constexpr bool kAdapted = kInput == SmallInput::kAdapted;
  constexpr bool kScaled = makes_own(kInput) && ScaledTile<Weights>::kIsThere;
  const int slice_first = static_cast<int>(blockIdx.y) * plan.slice_tiles;
  // Gate and up stay together.
  const int together = p.activate == Activate::kGate ? 2 : 1, units = run.tiles / together;
  const SmallRows<kInput> rows{together * (block * units / plan.blocks[index]),
                               together * ((block + 1) * units / plan.blocks[index]),
                               kParts * min(plan.slice_tiles, p.column_tiles - slice_first) / kStep};
  unsigned char* ring_begin = shared + plan.ring + warp_index() * plan.ring_slots * plan.ring_slot;
  SmallRing<Weights, kInput> ring(p, run, rows, ring_begin, plan, kParts * slice_first);
  // The table's words are on their way while the ring is filled.
  constexpr bool kHasTable = std::is_same_v<Weights, Nf4Weights>;
  static_assert(SmallShape<kInput>::kThreads >= 256);
  Nf4Byte nf4{};
  if (kHasTable && threadIdx.x < 256) nf4 = p.nf4_bytes[threadIdx.x];
#pragma unroll 1
  for (int i = kScaled ? 0 : 1; i < plan.ring_slots; ++i) ring.issue();
  constexpr bool kBringsAdapters = kAdapted && std::is_same_v<Weights, Nf4Weights>;
  const void* first_residual = prepare_output<kInput, kBringsAdapters>(p, plan, run, rows, shared);
  if (kHasTable && threadIdx.x < 256) Nf4Weights::put_in_table(nf4, static_cast<int>(threadIdx.x), shared);
  LaunchOfU launch{};
  if constexpr (kInput == SmallInput::kOperands) {
    grid_dependency_wait();
    copy_operands(p, plan, Weights::kOperands, slice_first, shared);
    __syncthreads();
    // Not before: what the next kernel's blocks fetch ahead would keep the activations waiting.
    grid_dependency_launch();
  } else {
    OwnInput<Weights, kAdapted> input(p, plan, slice_first);
    if (!plan.waits_late) grid_dependency_wait();
    if constexpr (kAdapted) launch = launch_of_u(plan);
    input.stage(p, plan, launch.tag(), shared);
    if constexpr (kAdapted) note_start(plan, launch);
  }
  const float residual = first_residual == nullptr ? 0.0f : load_activation(first_residual, p.out_is_bf16, 0);

  const SmallActivations<Weights, kScaled> x(p, plan, shared);
  const int slot_floats = kTileRows * p.tokens;
  typename SmallActivations<Weights, kScaled>::Sums sums{};
  int from = 0;
  uint32_t seen_started = 0;
#pragma unroll 1
  for (int first = rows.begin; first < rows.end; first += SmallShape<kInput>::kPhaseRows) {
    WarpShare own = rows.warp_share(first);
    const int share = rows.share(first), row_slots = rows.row_slots(share);
    const Divider by_share(share);
    // Late, when u has long been there, and early enough that nobody waits for it in the end. The first warp
    // has a whole share.
    const bool fetches_u = kAdapted && first == rows.begin && warp_index() == 0;
    auto* left = reinterpret_cast<float*>(shared + plan.partials);
    const auto offset_of = [&](int row) {
      return std::is_same_v<Weights, Nf4Weights> ? p.members[tile_owner(p, run, row).member].nf4_offset
                                                 : 0.0f;
    };
    float nf4_offset = own.count > 0 ? offset_of(own.row) : 0;
#pragma unroll 1
    for (; own.count > 0; --own.count) {
      wait_for_copies(plan.ring_slots - (kScaled ? 1 : 2));
      __syncwarp();  // what all lanes copied is there; and the slot that is filled next was read by all
      const WeightTables tables(nf4_offset, shared);
      const unsigned char* slot = ring_begin + from;
      if (fetches_u && own.count == min(share, 2)) fetch_u(p, plan, shared);
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
        // Who has a row's last columns of the first slice adds its adapter's part.
        if constexpr (kInput == SmallInput::kOperands) {
          if (own.column == rows.across && blockIdx.y == 0) {
            const TileOwner owner = tile_owner(p, run, own.row);
            add_adapter_of_tile(p, p.members[owner.member], owner.tile, sums);
          }
        }
        const int row = own.row - first;
        const int slot = row * row_slots + warp_index() - by_share.quotient(row * rows.across);
        leave_sums<Weights>(p.tokens, left + slot * slot_floats, sums);
      }
      if (own.column == rows.across) {
        own.column = 0;
        ++own.row;
        if (own.count > 1) nf4_offset = offset_of(own.row);
      }
    }
    // The barrier makes it everybody's wait.
    if (first == rows.begin && plan.waits_late && warp_index() == 0) grid_dependency_wait();
    if constexpr (kAdapted) {
      if (first == rows.begin) cp_async_wait<0>();
      if (fetches_u) {
        // Long before it is looked at.
        if (ends_launch()) seen_started = started(plan);
        read_u(p, plan, launch.tag(), shared);
      }
    }
    __syncthreads();
    finish_phase<kInput, kBringsAdapters>(p, plan, run, rows, first, shared, first == rows.begin, residual);
    if (first + SmallShape<kInput>::kPhaseRows < rows.end)
      __syncthreads();  // the next phase leaves its sums there
  }
  cp_async_wait<0>();
  if constexpr (kAdapted)
    if (ends_launch()) end_launch(plan, launch, seen_started);
}

// On an H200, Qwen3-8B in Q4_K_M, one token, from the end of the kernel before to its own: q, k and v 14.2 MB
// in 6.3 us, o 9.4 MB in 5.5, gate and up 56.6 MB in 15.3, down 28.3 or 41.3 MB in 11 or 16, lm_head 510 MB
// in 120. Of each, 0.5 us go by until its wait ends, 1.5 to 3 until x is staged, and 1 from the last product
// to the outputs. Two blocks have room on a multiprocessor.
template <typename First, typename Second, SmallInput kInput>
__global__ void __launch_bounds__(SmallShape<kInput>::kThreads, 2)
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

// The kernel for weights First and Second. For one and two tokens Q4_K and Q5_K share theirs with Q6_K also
// where a launch has one of them alone: files mix them, and a launch finds the instructions of the one before
// nearer.
template <typename First, typename Second, SmallInput kInput>
struct SmallKernel {
  static constexpr auto kernel = few_token_small_kernel<First, Second, kInput>;
};
template <typename Format, SmallInput kInput>
requires(makes_own(kInput)) struct SmallKernel<PlacedWeights<Format>, PlacedWeights<Format>, kInput> {
  static constexpr bool kIsLow = std::is_same_v<Format, FormatQ4K> || std::is_same_v<Format, FormatQ5K>;
  static constexpr bool kIsQ6 = std::is_same_v<Format, FormatQ6K>;
  using First = PlacedWeights<std::conditional_t<kIsQ6, FormatQ4K, Format>>;
  using Second = PlacedWeights<std::conditional_t<kIsLow, FormatQ6K, Format>>;
  static constexpr auto kernel = few_token_small_kernel<First, Second, kInput>;
};

template <SmallInput kInput>
void launch_small(CudaStream& stream, const char* op, const FewTokenParams& p, const FewTokenSmallPlan& plan,
                  const LaunchShape& shape) {
  const bool known = with_weights(p, [&]<typename First, typename Second>(First, Second) {
    launch(stream, op, shape, SmallKernel<First, Second, kInput>::kernel, p, plan);
  });
  ONGGI_CHECK(known);
}

}  // namespace onggi::cuda

// The kernel of few_token_integer.h.
//
// A block has neighbouring tiles of rows of one run; their tiles, row after row, are shared out evenly to its
// warps, so that each warp reads one stretch of memory. A tile's words go from memory into registers, and
// each is loaded anew, from the next tile, as soon as it is used: a warp has a whole tile on its way, 16
// warps 36 KB, and needs no shared memory for it. Before the kernel can read its activations it brings its
// first tiles into L2. Where a row of tiles ends a warp leaves its sums in shared memory; the block adds them
// up, in the order of the columns, and finishes the outputs.
#pragma once

#include "kernels/cuda/few_token_integer_formats.cuh"
#include "kernels/cuda/few_token_integer_input.cuh"

namespace onggi::cuda {

struct FewTokenIntegerShape {
  // 128 registers for a thread: half of the multiprocessor, so that the next kernel's block can start.
  static constexpr int kWarps = 8, kThreads = kWarps * kWarp;
  static constexpr int kPrefetchTiles = 4;
};

// What a lane reads of the activations, at the columns of a tile.
template <int kSpread>
struct IntegerLane {
  static constexpr int kTokens = 8 / kSpread;
  int element;  // which units of columns the lane's column of B stands for
  ScaleChoice<kSpread> choice;
  const unsigned char* x;  // of the lane's token, at its 8 bytes
  const float* factors;

  __device__ __forceinline__ IntegerLane(const FewTokenParams& p, const FewTokenIntegerPlan& plan,
                                         const unsigned char* shared) {
    const int lane = lane_index(), group = lane / 4;
    choice.pair = lane % 4;
    element = group / kTokens;
    // Columns of tokens that are not there repeat one that is: nobody reads their sums.
    x = shared + min(group % kTokens, p.tokens - 1) * plan.row_bytes + 8 * choice.pair;
    factors = reinterpret_cast<const float*>(shared + plan.factors);
  }
  // The lane's operand of accumulator i.
  template <typename Format>
  __device__ __forceinline__ uint2 operand(int column_tile, int i) const {
    const int groups = Format::kUnits == 1 ? kSpread * i + element : kSpread * i / 2 + element / 2;
    uint2 bits = *reinterpret_cast<const uint2*>(x + 256 * column_tile + 32 * groups);
    if constexpr (Format::kUnits == 2) {
      const uint32_t mask = (kSpread == 1 ? i % 2 : element % 2) == 0 ? 0x00FF00FFu : 0xFF00FF00u;
      bits.x &= mask;
      bits.y &= mask;
    }
    return bits;
  }
  // Of the lane's columns 2 p and 2 p + 1 of accumulator i: {scale, scale, sum, sum}.
  template <typename Format>
  __device__ __forceinline__ float4 input_factors(int column_tile, int i) const {
    const int pair = choice.pair;
    if constexpr (Format::kUnits == 1) {
      return *reinterpret_cast<const float4*>(factors + 4 * (4 * column_tile * kTokens + 4 * i + pair));
    } else if constexpr (kSpread == 8) {
      const float scale = factors[16 * column_tile + 8 * i + 4 * (pair / 2) + pair % 2];
      return make_float4(scale, scale, 0, 0);
    } else {
      const int unit = 2 * pair / kTokens, token = 2 * pair % kTokens;
      const int entry = (8 * column_tile + kSpread * i / 2 + unit / 2) * kTokens + token;
      const float2 scales = *reinterpret_cast<const float2*>(factors + 2 * entry);
      return make_float4(scales.x, scales.y, 0, 0);
    }
  }
};

// Adds the product of the tile in registers, and loads the next one into them.
template <typename Format, int kSpread>
__device__ __forceinline__ void multiply_tile(typename Format::Loaded& tile, const IntegerLane<kSpread>& lane,
                                              int column_tile, const uint8_t* next, float (&sums)[4]) {
  constexpr int kUnits = Format::kUnits;
  const typename Format::template Scales<kSpread> scales(tile, lane.choice);
  if (next != nullptr) Format::load_scales(tile, next);
  float scaled[4] = {0, 0, 0, 0}, lows[4] = {0, 0, 0, 0};
  int32_t d[4] = {0, 0, 0, 0};
  uint2 x = {0, 0};
#pragma unroll
  for (int s = 0; s < 8; ++s) {
    uint32_t a[4];
    Format::operands(tile, s / 2, s % 2, a);
    if (s % 2 == 1 && next != nullptr) Format::load_chunk(tile, next, s / 2);
#pragma unroll
    for (int h = 0; h < kUnits; ++h) {
      const int unit = kUnits * s + h, i = unit / kSpread, e = unit % kSpread;
      if (e == 0) {
        x = lane.template operand<Format>(column_tile, i);
        d[0] = d[1] = d[2] = d[3] = 0;
        if constexpr (Format::kValueBias != 0) {
          constexpr uint32_t kTaken = (256u - Format::kValueBias) * 0x01010101u;
          const uint32_t taken[4] = {kTaken, kTaken, kTaken, kTaken};
          mma_m16n8k32_s8(d, taken, x.x, x.y);
        }
      }
      const bool own = kSpread == 1 || lane.element == e;
      mma_m16n8k32_s8(d, a, own ? x.x : 0u, own ? x.y : 0u);
      if (e != kSpread - 1) continue;
      const float4 factors = lane.template input_factors<Format>(column_tile, i);
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float factor = scales.scale(lane.choice, r, i, j) * (j == 0 ? factors.x : factors.y);
          scaled[2 * r + j] = fmaf(factor, static_cast<float>(d[2 * r + j]), scaled[2 * r + j]);
          if constexpr (Format::kHasMinimums)
            lows[2 * r + j] =
                fmaf(scales.low(lane.choice, r, i, j), j == 0 ? factors.z : factors.w, lows[2 * r + j]);
        }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      sums[2 * r + j] = fmaf(scales.d[r], scaled[2 * r + j], sums[2 * r + j]);
      if constexpr (Format::kHasMinimums)
        sums[2 * r + j] = fmaf(-scales.minimum[r], lows[2 * r + j], sums[2 * r + j]);
    }
}

// A warp's sums of a row of tiles: [token][16] floats.
template <int kSpread>
__device__ __forceinline__ void leave_sums(float* slot, float (&sums)[4]) {
  constexpr int kTokens = 8 / kSpread;
  const int group = lane_index() / 4, pair = lane_index() % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float sum = sums[2 * r + j];
      sums[2 * r + j] = 0;
      if constexpr (kSpread >= 4) sum += __shfl_xor_sync(kAllLanes, sum, 1);
      if constexpr (kSpread >= 2) sum += __shfl_xor_sync(kAllLanes, sum, 2);
      if constexpr (kSpread == 8) {
        if (j == 0) {
          sums[2 * r] = sum;  // the other half of the units follows
          continue;
        }
        sum += sums[2 * r];
        sums[2 * r] = 0;
      }
      const int token = 2 * pair % kTokens + (kSpread == 8 ? 0 : j);
      if (2 * pair < kTokens || pair == 0) slot[16 * token + group + 8 * r] = sum;
    }
}

// The tiles of rows of a block that are on their way together.
struct IntegerPhase {
  int first_row, rows;  // of the run
  int across;           // tiles in a row
  int share;            // tiles of a warp
};

// Finishes the outputs of a phase from what the warps left.
template <int kSpread>
__device__ __forceinline__ void finish_phase(const FewTokenParams& p, const FewTokenIntegerPlan& plan,
                                             const FewTokenRun& run, const IntegerPhase& phase,
                                             const unsigned char* shared) {
  constexpr int kSlot = kTileRows * 8 / kSpread;
  const auto* partials = reinterpret_cast<const float*>(shared + plan.partials);
  const auto* inverse_rms = reinterpret_cast<const float*>(shared + plan.inverse_rms);
  const bool gated = p.activate == Activate::kGate;
  const int outputs = gated ? phase.rows / 2 : phase.rows;
  const auto sum_of = [&](int row, int at) {
    const int begin = row * phase.across, end = begin + phase.across;
    float sum = 0;
    for (int warp = begin / phase.share; warp * phase.share < end; ++warp) {
      const int slot = warp * plan.partial_slots + row - warp * phase.share / phase.across;
      sum += partials[slot * kSlot + at];
    }
    return sum;
  };
#pragma unroll 1
  for (int i = threadIdx.x; i < kTileRows * outputs * p.tokens; i += FewTokenIntegerShape::kThreads) {
    const int row_in_tile = i % kTileRows, output = i / kTileRows % outputs, token = i / kTileRows / outputs;
    const int at = kTileRows * token + row_in_tile, tile = gated ? 2 * output : output;
    const TileOwner owner = tile_owner(p, run, phase.first_row + tile);
    const FewTokenMember& member = p.members[owner.member];
    const int row = kTileRows * owner.tile + row_in_tile;
    if (row >= member.rows) continue;
    const float sum = inverse_rms[token] * sum_of(tile, at);
    if (gated) {
      store_gated(p, row, token, sum, inverse_rms[token] * sum_of(tile + 1, at));
    } else {
      store_output(p, member, row, token, sum);
    }
  }
}

// A warp's tiles of a phase.
template <typename Format, int kSpread>
struct IntegerWalk {
  const FewTokenParams& p;
  const FewTokenRun& run;
  const IntegerPhase& phase;
  int count;        // tiles that are left
  int row, column;  // of the next tile: row of the phase
  const uint8_t* at;
  const uint8_t* after;  // the row after this one
  typename Format::Loaded tile;

  __device__ __forceinline__ IntegerWalk(const FewTokenParams& params, const FewTokenRun& of,
                                         const IntegerPhase& in)
      : p(params), run(of), phase(in) {
    const int all = phase.rows * phase.across, begin = min(warp_index() * phase.share, all);
    count = min(phase.share, all - begin);
    row = begin / phase.across;
    column = begin - row * phase.across;
    if (count == 0) return;
    at = row_data(row) + column * Format::kBytes;
    find_after();
  }
  __device__ __forceinline__ void find_after() {
    after = at;
    if (row + 1 < phase.rows) after = row_data(row + 1);
  }
  __device__ __forceinline__ const uint8_t* row_data(int of) const {
    const TileOwner owner = tile_owner(p, run, phase.first_row + of);
    return p.members[owner.member].data + static_cast<int64_t>(owner.tile) * phase.across * Format::kBytes;
  }
  // Brings the warp's tile that is `ahead` tiles further into L2: registers alone hold too little on its way.
  __device__ __forceinline__ void prefetch(int ahead) const {
    if (ahead >= count) return;
    const int beyond = column + ahead - phase.across;
    if (beyond >= phase.across) return;
    const uint8_t* from = beyond < 0 ? at + ahead * Format::kBytes : after + beyond * Format::kBytes;
    const int offset = 128 * lane_index();
    if (offset < Format::kBytes) prefetch_l2(from + offset);
  }
  __device__ __forceinline__ void load_first() {
    if (count == 0) return;
    Format::load_scales(tile, at);
#pragma unroll
    for (int j = 0; j < 4; ++j) Format::load_chunk(tile, at, j);
  }
  // Multiplies all tiles and leaves the sums in the warp's slots.
  __device__ __forceinline__ void multiply(const IntegerLane<kSpread>& lane, float* slot) {
    float sums[4] = {0, 0, 0, 0};
#pragma unroll 1
    for (; count > 0; --count) {
      prefetch(FewTokenIntegerShape::kPrefetchTiles + 1);
      const int own = column++;
      const bool ends = column == phase.across;
      at += Format::kBytes;
      if (ends) {
        column = 0;
        ++row;
        at = after;
        find_after();
      }
      multiply_tile<Format, kSpread>(tile, lane, own, count > 1 ? at : nullptr, sums);
      if (!ends && count > 1) continue;
      leave_sums<kSpread>(slot, sums);
      slot += kTileRows * 8 / kSpread;
    }
  }
};

template <typename Format, int kSpread>
__device__ __forceinline__ void take_integer_rows(const FewTokenParams& p, const FewTokenIntegerPlan& plan,
                                                  int index, unsigned char* shared) {
  using Shape = FewTokenIntegerShape;
  const FewTokenRun& run = p.runs[index];
  const int block = static_cast<int>(blockIdx.x) - plan.first_block[index];
  // Gate and up stay together.
  const int together = p.activate == Activate::kGate ? 2 : 1, parts = run.tiles / together;
  const int begin = together * (block * parts / plan.blocks[index]);
  const int end = together * ((block + 1) * parts / plan.blocks[index]);
  float* slots = reinterpret_cast<float*>(shared + plan.partials) +
                 warp_index() * plan.partial_slots * kTileRows * 8 / kSpread;
  IntegerPhase phase{begin, 0, (p.columns + 255) / 256, 0};
  for (; phase.first_row < end; phase.first_row += phase.rows) {
    phase.rows = min(plan.phase_rows, end - phase.first_row);
    phase.share = (phase.rows * phase.across + Shape::kWarps - 1) / Shape::kWarps;
    IntegerWalk<Format, kSpread> walk(p, run, phase);
    const bool first = phase.first_row == begin;
    if (first) {
#pragma unroll 1
      for (int ahead = 0; ahead <= Shape::kPrefetchTiles; ++ahead) walk.prefetch(ahead);
      if (!p.waits_late) grid_dependency_wait();
      stage_integer_input<8 / kSpread, Shape::kWarps>(p, plan, shared);
    }
    walk.load_first();
    __syncthreads();  // the activations are there; the sums of the phase before were read
    if (first) finish_norm<Shape::kWarps>(p, plan, shared);
    walk.multiply(IntegerLane<kSpread>(p, plan, shared), slots);
    if (first && p.waits_late) grid_dependency_wait();
    __syncthreads();
    finish_phase<kSpread>(p, plan, run, phase, shared);
  }
}

// Expected on an H100, Qwen3-8B in Q4_K_M, one token: q, k and v 14.2 MB in 6.5 us, o 9.4 MB in 4.5, gate and
// up 56.6 MB in 21, down 28.3 or 41.3 MB in 11 or 15, lm_head 510 MB in 175 us. About 200 operations of a
// warp for a tile of Q4_K, so that 2 million tiles of a step are 800,000 cycles of each scheduler: 0.45 ms.
template <int kSpread>
__global__ void __launch_bounds__(FewTokenIntegerShape::kThreads, 2)
    few_token_integer_kernel(const __grid_constant__ FewTokenParams p,
                             const __grid_constant__ FewTokenIntegerPlan plan) {
  auto* shared = dynamic_shared<unsigned char>();
  grid_dependency_launch();
  int index = 0;
  while (index + 1 < p.run_count && static_cast<int>(blockIdx.x) >= plan.first_block[index + 1]) ++index;
  if (p.runs[index].dtype == DType::kQ4_K) {
    take_integer_rows<IntegerQ4K, kSpread>(p, plan, index, shared);
  } else {
    take_integer_rows<IntegerQ6K, kSpread>(p, plan, index, shared);
  }
}

}  // namespace onggi::cuda

// Adapters where the blocks of few_token_small.h make their own operands (one or two tokens).
//
// u = norm(x) A^T is shared out: block i multiplies what it brings of x by row i of A as well, and so on by
// every gridDim.x-th row. What comes of it goes through memory: every block copies all of u while it computes
// products, which take longer, and adds scale u B^T to its outputs at the end.
//
// In memory a value is half of an entry, whose other half is the launch's tag: where that is another one, the
// value is not there yet. Nobody waits for an entry in vain: blocks start in their order and make their own
// before they look for others', so the first ones have made theirs as a rule; and who finds one missing for
// long (another launch has taken the room of the block that should make it) computes it.
#pragma once

#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/few_token_small.h"

namespace onggi::cuda {

// Between launches plan.u_state has how many there were, and above it how many of their blocks have started;
// the number behind it counts these.
struct LaunchOfU {
  uint32_t number, started_before;
  // What its entries are marked with. Odd: no entry is 0.
  __device__ __forceinline__ uint32_t tag() const { return 2 * number + 1; }
};
// What came before the launch is done.
__device__ __forceinline__ LaunchOfU launch_of_u(const FewTokenSmallPlan& plan) {
  const uint64_t state = load_relaxed(plan.u_state);
  return {static_cast<uint32_t>(state), static_cast<uint32_t>(state >> 32)};
}
// The block has seen which launch it is.
__device__ __forceinline__ void note_start(const FewTokenSmallPlan& plan, const LaunchOfU& launch) {
  // The condition is always true, and makes the count wait for the number.
  if (threadIdx.x == 0 && launch.tag() != 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(plan.u_state + 1), 1ULL);
}
__device__ __forceinline__ uint32_t started(const FewTokenSmallPlan& plan) {
  return static_cast<uint32_t>(load_relaxed(plan.u_state + 1));
}
__device__ __forceinline__ bool ends_launch() { return threadIdx.x == 0 && blockIdx.x == gridDim.x - 1; }
// By the thread that ends the launch: the next one has another number, once nobody can take it for this
// one's.
__device__ __forceinline__ void end_launch(const FewTokenSmallPlan& plan, const LaunchOfU& launch,
                                           uint32_t seen_started) {
  const uint32_t all = launch.started_before + gridDim.x;
  while (seen_started != all) seen_started = started(plan);
  store_relaxed(plan.u_state, uint64_t{all} << 32 | (launch.number + 1));
}

// Where u of a member and a token begins, in memory and in the block's copies.
__device__ __forceinline__ int first_of_u(const FewTokenParams& p, const FewTokenSmallPlan& plan, int member,
                                          int token) {
  return (member * p.tokens + token) * plan.rank_slots;
}

// The rows of A that are the block's to multiply x by, one after another.
class OwnRanks {
 public:
  __device__ __forceinline__ OwnRanks(const FewTokenParams& p, const FewTokenSmallPlan& plan)
      : all_(p.member_count * plan.rank_slots), slot_(static_cast<int>(blockIdx.x)) {
    find(p, plan);
  }
  __device__ __forceinline__ bool is_one_left() const { return slot_ < all_; }
  __device__ __forceinline__ void next(const FewTokenParams& p, const FewTokenSmallPlan& plan) {
    slot_ += static_cast<int>(gridDim.x);
    find(p, plan);
  }

  // f32 [K]; null: none.
  __device__ __forceinline__ const float* row() const { return row_; }
  __device__ __forceinline__ void store(const FewTokenParams& p, const FewTokenSmallPlan& plan, uint32_t tag,
                                        int token, float u) const {
    if (row_ == nullptr) return;
    store_relaxed(plan.u_entries + slot_ + (member_ * (p.tokens - 1) + token) * plan.rank_slots,
                  uint64_t{tag} << 32 | __float_as_uint(u));
  }

 private:
  __device__ __forceinline__ void find(const FewTokenParams& p, const FewTokenSmallPlan& plan) {
    row_ = nullptr;
    if (!is_one_left()) return;
    member_ = Divider(plan.rank_slots).quotient(slot_);
    const int rank = slot_ - member_ * plan.rank_slots;
    if (rank < p.members[member_].rank)
      row_ = p.members[member_].lora_a + static_cast<int64_t>(rank) * p.columns;
  }

  int all_, slot_;
  int member_ = 0;
  const float* row_;
};

// Entries are copied in pieces of two.
__device__ __forceinline__ int entry_pieces(const FewTokenParams& p, const FewTokenSmallPlan& plan) {
  return p.member_count * p.tokens * plan.rank_slots / 2;
}
// Queues the copies of the entries, by one warp; they belong to its next group.
__device__ __forceinline__ void fetch_u(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                        unsigned char* shared) {
#pragma unroll 1
  for (int piece = lane_index(); piece < entry_pieces(p, plan); piece += kWarp)
    cp_async_16(shared + plan.lora_entries + 16 * piece, plan.u_entries + 2 * piece);
}

// A value that was not there.
__device__ __forceinline__ float late_u(const FewTokenParams& p, const FewTokenSmallPlan& plan, uint32_t tag,
                                        int member, int token, int rank) {
  constexpr int kPatience = 1000;  // about a millisecond
  const uint64_t* from = plan.u_entries + first_of_u(p, plan, member, token) + rank;
#pragma unroll 1
  for (int i = 0; i < kPatience; ++i)
    if (const uint64_t entry = load_relaxed(from); entry >> 32 == tag)
      return __uint_as_float(static_cast<uint32_t>(entry));
  const float* a = p.members[member].lora_a + static_cast<int64_t>(rank) * p.columns;
  float dot = 0, square = 0;
#pragma unroll 1
  for (int k = 0; k < p.columns; ++k) {
    const float x = load_activation(p.x, p.x_is_bf16, token * p.x_stride + k);
    square = fmaf(x, x, square);
    dot = fmaf(a[k], p.norm == nullptr ? x : x * p.norm[k], dot);
  }
  return dot * norm_factor(p, square);
}

// Makes u of what fetch_u() has copied, by the same warp. Its copies and what x depends on are there.
__device__ __forceinline__ void read_u(const FewTokenParams& p, const FewTokenSmallPlan& plan, uint32_t tag,
                                       unsigned char* shared) {
#pragma unroll 1
  for (int piece = lane_index(); piece < entry_pieces(p, plan); piece += kWarp) {
    const uint4 two = *reinterpret_cast<const uint4*>(shared + plan.lora_entries + 16 * piece);
    auto* u = reinterpret_cast<uint32_t*>(shared + plan.lora_u + 8 * piece);
    *reinterpret_cast<uint2*>(u) = make_uint2(two.x, two.z);
    if (two.y == tag && two.w == tag) continue;
    const int row = Divider(plan.rank_slots / 2).quotient(piece);  // of a member and a token
    const int member = p.tokens == 1 ? row : row / 2, first = 2 * piece - row * plan.rank_slots;
#pragma unroll 1
    for (int i = 0; i < 2; ++i)
      if ((i == 0 ? two.y : two.w) != tag && first + i < p.members[member].rank)
        u[i] = __float_as_uint(late_u(p, plan, tag, member, row - member * p.tokens, first + i));
  }
}

// sum + b u of four ranks.
__device__ __forceinline__ float add_four_ranks(float sum, const float4& b, const float4& u) {
  return fmaf(b.x, u.x, fmaf(b.y, u.y, fmaf(b.z, u.z, fmaf(b.w, u.w, sum))));
}

// scale * (u B^T) of one output; 16 ranks at a time are loaded together.
__device__ __forceinline__ float lora_term(const FewTokenMember& member, int row, const float* u) {
  constexpr int kTogether = 4;
  const float* b = member.lora_b + static_cast<int64_t>(row) * member.rank;
  const int vectors = member.rank % 4 == 0 ? member.rank : 0;  // B's rows are aligned
  float sum = 0;
#pragma unroll 1
  for (int r = 0; r < vectors; r += 4 * kTogether) {
    float4 b4[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      b4[i] = r + 4 * i < vectors ? *reinterpret_cast<const float4*>(b + r + 4 * i) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kTogether; ++i)
      if (r + 4 * i < vectors)
        sum = add_four_ranks(sum, b4[i], *reinterpret_cast<const float4*>(u + r + 4 * i));
  }
#pragma unroll 1
  for (int r = vectors; r < member.rank; ++r) sum = fmaf(b[r], u[r], sum);
  return member.lora_scale * sum;
}
// The same with the rows of B that the block has copied for the thread's first output: of gate (j = 0) or up
// where there are both (together = 2).
__device__ __forceinline__ float lora_term_of_copies(const FewTokenSmallPlan& plan,
                                                     const FewTokenMember& member, int together, int j,
                                                     const unsigned char* shared, const float* u) {
  const unsigned char* b =
      shared + plan.lora_b + (static_cast<int>(threadIdx.x) * together + j) * plan.lora_row;
  float sum = 0;
#pragma unroll 4
  for (int r = 0; r < member.rank; r += 4)
    sum = add_four_ranks(sum, *reinterpret_cast<const float4*>(b + 4 * r),
                         *reinterpret_cast<const float4*>(u + r));
  return member.lora_scale * sum;
}

}  // namespace onggi::cuda

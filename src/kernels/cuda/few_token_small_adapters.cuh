// Adapters where the blocks of few_token_small.h make their own operands (one or two tokens).
//
// u = norm(x) A^T is shared out: block i multiplies what it brings of x by row i of A as well, and so on by
// every gridDim.x-th row. What comes of it goes through memory: every block copies all of u while it computes
// products, which take longer, and adds scale u B^T to its outputs at the end.
//
// In memory a value is a word, its bits inverted, and 0 where it is not there yet. Nobody waits for a word in
// vain: blocks start in their order and make theirs before they look for others', so the first ones have
// made theirs as a rule; and who finds one missing for long (another launch has taken the room of the block
// that should make it) computes it. The last block that has seen all words makes them 0 again.
#pragma once

#include "kernels/cuda/few_token.cuh"
#include "kernels/cuda/few_token_small.h"

namespace onggi::cuda {

// Where u of a member and a token begins, in memory and in the block's copy.
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
  __device__ __forceinline__ void store(const FewTokenParams& p, const FewTokenSmallPlan& plan, int token,
                                        float u) const {
    const uint32_t word = ~__float_as_uint(u);
    const int at = slot_ + (member_ * (p.tokens - 1) + token) * plan.rank_slots;
    // NaN has many forms.
    if (row_ != nullptr) store_relaxed(plan.u_words + at, word == 0 ? 0x80000000u : word);
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

// Queues the copies of u, by one warp; they belong to its next group.
__device__ __forceinline__ void fetch_u(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                        unsigned char* shared) {
  const int pieces = p.member_count * p.tokens * plan.rank_slots / 4;
#pragma unroll 1
  for (int piece = lane_index(); piece < pieces; piece += kWarp)
    cp_async_16(shared + plan.lora_u + 16 * piece, plan.u_words + 4 * piece);
}

// A word that was not there.
__device__ __forceinline__ uint32_t late_u(const FewTokenParams& p, const FewTokenSmallPlan& plan, int member,
                                           int token, int rank) {
  constexpr int kPatience = 1000;  // about a millisecond
  const unsigned* from = plan.u_words + first_of_u(p, plan, member, token) + rank;
#pragma unroll 1
  for (int i = 0; i < kPatience; ++i)
    if (const uint32_t word = load_relaxed(from); word != 0) return word;
  const float* a = p.members[member].lora_a + static_cast<int64_t>(rank) * p.columns;
  float dot = 0, square = 0;
#pragma unroll 1
  for (int k = 0; k < p.columns; ++k) {
    const float x = load_activation(p.x, p.x_is_bf16, token * p.x_stride + k);
    square = fmaf(x, x, square);
    dot = fmaf(a[k], p.norm == nullptr ? x : x * p.norm[k], dot);
  }
  return ~__float_as_uint(dot * norm_factor(p, square));
}

// Makes values of what fetch_u() has copied, by the same warp. Its copies and what it depends on are there.
__device__ __forceinline__ void read_u(const FewTokenParams& p, const FewTokenSmallPlan& plan,
                                       unsigned char* shared) {
  const int pieces = p.member_count * p.tokens * plan.rank_slots / 4;
#pragma unroll 1
  for (int piece = lane_index(); piece < pieces; piece += kWarp) {
    auto* words = reinterpret_cast<uint32_t*>(shared + plan.lora_u + 16 * piece);
    uint4 four = *reinterpret_cast<const uint4*>(words);
    if (four.x == 0 || four.y == 0 || four.z == 0 || four.w == 0) {
      const int row = Divider(plan.rank_slots / 4).quotient(piece);  // of a member and a token
      const int member = p.tokens == 1 ? row : row / 2, first = 4 * piece - row * plan.rank_slots;
#pragma unroll 1
      for (int i = 0; i < 4; ++i)
        if (words[i] == 0 && first + i < p.members[member].rank)
          words[i] = late_u(p, plan, member, row - member * p.tokens, first + i);
      four = *reinterpret_cast<const uint4*>(words);
    }
    *reinterpret_cast<uint4*>(words) = make_uint4(~four.x, ~four.y, ~four.z, ~four.w);
  }
}

// After read_u(), by a lane of the same warp: how many blocks had seen all words before.
__device__ __forceinline__ unsigned readers_before(const FewTokenSmallPlan& plan) {
  return atomicAdd(plan.u_readers, 1u);
}
// What the last of them does, by the same warp.
__device__ __forceinline__ void forget_u(const FewTokenParams& p, const FewTokenSmallPlan& plan) {
  for (int i = lane_index(); i < p.member_count * p.tokens * plan.rank_slots; i += kWarp) plan.u_words[i] = 0;
  if (lane_index() == 0) *plan.u_readers = 0;
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
// The same with the rows of B that thread and plan.lora_b have of its first outputs: of gate (j = 0) and up
// where there are both, `together` 2.
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

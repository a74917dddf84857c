// SwiGLU, dropout, and rows picked and put back.
#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace onggi::cpu::HWY_NAMESPACE {
namespace {

void swiglu_range(const SwiGluArgs& args, int64_t begin, int64_t end) {
  const float *gates = args.gate, *ups = args.up;
  float* out = args.out;
  for_lanes(end - begin, [&](auto d, int64_t offset) HWY_ATTR {
    const int64_t i = begin + offset;
    const auto gate = hn::LoadU(d, gates + i);
    const auto silu = hn::Mul(gate, sigmoid_lanes(d, gate));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, ups + i)), d, out + i);
  });
}

// silu'(g) = s + g s (1 - s), s = 1 / (1 + exp(-g))
void swiglu_backward_range(const SwiGluBackwardArgs& args, int64_t begin, int64_t end) {
  const float *douts = args.dout, *gates = args.gate, *ups = args.up;
  float *dgate = args.dgate, *dup = args.dup;
  for_lanes(end - begin, [&](auto d, int64_t offset) HWY_ATTR {
    const int64_t i = begin + offset;
    const auto gate = hn::LoadU(d, gates + i), up = hn::LoadU(d, ups + i);
    const auto dout = hn::LoadU(d, douts + i);
    const auto sigmoid = sigmoid_lanes(d, gate);
    const auto silu = hn::Mul(gate, sigmoid);
    const auto slope = hn::MulAdd(silu, hn::Sub(hn::Set(d, 1.0f), sigmoid), sigmoid);
    hn::StoreU(hn::Mul(hn::Mul(dout, up), slope), d, dgate + i);
    hn::StoreU(hn::Mul(dout, silu), d, dup + i);
  });
}

constexpr int64_t kDrawsPerBlock = 8;  // 16-bit words of one Philox block

#if HWY_TARGET == HWY_SCALAR
constexpr int64_t kBlocks = 1;

void philox_draws(uint64_t seed, uint64_t stream, uint64_t first, uint16_t* draws) {
  const auto words = philox(seed, stream, first);
  for (size_t i = 0; i < words.size(); ++i) {
    draws[2 * i] = static_cast<uint16_t>(words[i]);
    draws[2 * i + 1] = static_cast<uint16_t>(words[i] >> 16);
  }
}
#else
constexpr int64_t kBlocks = static_cast<int64_t>(HWY_LANES(uint64_t));

// The words of Philox blocks first, first + 1, ... (one per 64-bit lane), each block's eight in order: the
// same rounds as philox() in base/random.h. Only the low halves of the lanes count; the multiplication reads
// no more.
void philox_draws(uint64_t seed, uint64_t stream, uint64_t first, uint16_t* draws) {
  const hn::ScalableTag<uint64_t> d;
  const hn::Repartition<uint32_t, decltype(d)> d32;
  auto c0 = hn::Add(hn::Set(d, first), hn::Iota(d, 0)), c1 = hn::ShiftRight<32>(c0);
  auto c2 = hn::Set(d, stream), c3 = hn::ShiftRight<32>(c2);
  auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  const auto m0 = hn::Set(d32, 0xD2511F53u), m1 = hn::Set(d32, 0xCD9E8D57u);
  for (int round = 0; round < 10; ++round) {
    const auto p0 = hn::MulEven(m0, hn::BitCast(d32, c0)), p1 = hn::MulEven(m1, hn::BitCast(d32, c2));
    c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c1), hn::Set(d, uint64_t{k0}));
    c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c3), hn::Set(d, uint64_t{k1}));
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  const auto low = hn::Set(d, uint64_t{0xFFFFFFFF});
  const auto first_words = hn::Or(hn::And(c0, low), hn::ShiftLeft<32>(c1));
  const auto last_words = hn::Or(hn::And(c2, low), hn::ShiftLeft<32>(c3));
  hn::StoreInterleaved2(first_words, last_words, d, reinterpret_cast<uint64_t*>(draws));
}
#endif

// begin is a multiple of 8.
void dropout_range(const DropoutArgs& args, int64_t begin, int64_t end) {
  constexpr int64_t kStep = kBlocks * kDrawsPerBlock;
  HWY_ALIGN uint16_t draws[kStep];
  const auto threshold = static_cast<int32_t>(std::lround(double{args.probability} * 65536.0));
  const float kept_share = 1.0f - args.probability;
  const uint64_t stream = stream_of(args);
  const float* source = args.x;
  float* target = args.out;
  for (int64_t first = begin; first < end; first += kStep) {
    philox_draws(args.seed, stream, static_cast<uint64_t>(first / kDrawsPerBlock), draws);
    for_lanes(std::min(kStep, end - first), [&](auto d, int64_t offset) HWY_ATTR {
      const hn::RebindToSigned<decltype(d)> d_signed;
      const hn::Rebind<uint16_t, decltype(d)> d_draws;
      const auto draw = hn::PromoteTo(d_signed, hn::LoadU(d_draws, draws + offset));
      const auto kept = hn::RebindMask(d, hn::Gt(draw, hn::Set(d_signed, threshold - 1)));
      const auto x = hn::LoadU(d, source + first + offset);
      auto value = hn::IfThenElseZero(kept, hn::Div(x, hn::Set(d, kept_share)));
      float* out = target + first + offset;
      if (args.output == Output::kAccumulate) value = hn::Add(hn::LoadU(d, out), value);
      hn::StoreU(value, d, out);
    });
  }
}

}  // namespace
}  // namespace onggi::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onggi::cpu {

HWY_EXPORT(swiglu_range);
HWY_EXPORT(swiglu_backward_range);
HWY_EXPORT(dropout_range);

namespace {
// Elements below which waking another thread costs more than it saves; a multiple of every vector.
constexpr int64_t kGrain = 16384;
}  // namespace

void swiglu(const OpContext& context, const SwiGluArgs& args) {
  check_dense(args.out_stride, args.width);
  context.threads.parallel_for(args.tokens * args.width, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(swiglu_range)(args, begin, end);
  });
}

void swiglu_backward(const OpContext& context, const SwiGluBackwardArgs& args) {
  check_dense(args.dup_stride, args.width);
  context.threads.parallel_for(args.tokens * args.width, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(swiglu_backward_range)(args, begin, end);
  });
}

void gather_rows(const OpContext& context, const GatherRowsArgs& args) {
  const float* x = args.x;
  float* out = args.out;
  context.threads.parallel_for(args.count, kGrain / args.width + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      std::copy_n(x + args.rows[i] * args.width, args.width, out + i * args.width);
  });
}

void scatter_rows(const OpContext& context, const ScatterRowsArgs& args) {
  check_dense(args.out_stride, args.width);
  const float* x = args.x;
  float* out = args.out;
  context.threads.parallel_for(args.count, kGrain / args.width + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      std::copy_n(x + i * args.width, args.width, out + args.rows[i] * args.width);
  });
}

void dropout(const OpContext& context, const DropoutArgs& args) {
  context.threads.parallel_for(args.elements, kGrain, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(dropout_range)(args, begin, end);
  });
}

}  // namespace onggi::cpu
#endif  // HWY_ONCE

// Loss, gradient norm and optimiser.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/adamw_step.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/training.cc"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace onggi::cpu::HWY_NAMESPACE {
namespace {

// One row. The sum of the exponentials is over chunks in fp64, so that a vocabulary of 150,000 costs no
// digits.
void cross_entropy_row(const CrossEntropyArgs& args, int64_t row) {
  constexpr int64_t kChunk = 4096;
  const float* logits = args.logits + row * args.vocabulary;
  const int32_t label = args.labels[row];
  const float maximum = max_lanes(logits, args.vocabulary);
  double sum = 0;
  for (int64_t begin = 0; begin < args.vocabulary; begin += kChunk)
    sum += sum_lanes(std::min(kChunk, args.vocabulary - begin), [&](auto d, int64_t i) HWY_ATTR {
      return exp_lanes(d, hn::Sub(hn::LoadU(d, logits + begin + i), hn::Set(d, maximum)));
    });
  args.losses[row] = static_cast<float>(maximum + std::log(sum) - logits[label]);
  if (args.dlogits.is_null()) return;
  float* dlogits = args.dlogits + row * args.vocabulary;
  const auto share = static_cast<float>(args.gradient_scale / sum);
  for_lanes(args.vocabulary, [&](auto d, int64_t i) HWY_ATTR {
    const auto e = exp_lanes(d, hn::Sub(hn::LoadU(d, logits + i), hn::Set(d, maximum)));
    hn::StoreU(hn::Mul(e, hn::Set(d, share)), d, dlogits + i);
  });
  dlogits[label] -= args.gradient_scale;
}

void adamw_range(const AdamWArgs& args, const AdamWStep& step, int64_t begin, int64_t end) {
  for_lanes(end - begin, [&](auto d, int64_t offset) HWY_ATTR {
    const int64_t i = begin + offset;
    const auto g = hn::Mul(hn::LoadU(d, args.gradient + i), hn::Set(d, step.scale));
    const auto m = hn::Add(hn::Mul(hn::Set(d, args.beta1), hn::LoadU(d, args.first_moment + i)),
                           hn::Mul(hn::Set(d, 1.0f - args.beta1), g));
    const auto v = hn::Add(hn::Mul(hn::Set(d, args.beta2), hn::LoadU(d, args.second_moment + i)),
                           hn::Mul(hn::Set(d, 1.0f - args.beta2), hn::Mul(g, g)));
    const auto root = hn::Sqrt(hn::Mul(v, hn::Set(d, step.correction)));
    const auto change = hn::Div(hn::Mul(hn::Set(d, step.rate), m), hn::Add(root, hn::Set(d, args.epsilon)));
    const auto w = hn::Mul(hn::LoadU(d, args.weights + i), hn::Set(d, step.decay));
    hn::StoreU(m, d, args.first_moment + i);
    hn::StoreU(v, d, args.second_moment + i);
    hn::StoreU(hn::Sub(w, change), d, args.weights + i);
  });
}

}  // namespace
}  // namespace onggi::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onggi::cpu {

HWY_EXPORT(cross_entropy_row);
HWY_EXPORT(adamw_range);

namespace {

// Eight chains in fp64, the same on every processor.
double sum_of_squares_of(const float* x, int64_t count) {
  constexpr int64_t kChains = 8;
  double sums[kChains] = {};
  int64_t i = 0;
  for (; i + kChains <= count; i += kChains)
    for (int64_t j = 0; j < kChains; ++j) sums[j] += double{x[i + j]} * x[i + j];
  for (; i < count; ++i) sums[0] += double{x[i]} * x[i];
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

}  // namespace

void cross_entropy(const OpContext& context, const CrossEntropyArgs& args) {
  context.threads.parallel_items(args.rows, [&](int64_t row, int) {
    HWY_DYNAMIC_DISPATCH(cross_entropy_row)(args, row);
  });
  if (args.loss_sum == nullptr) return;
  for (int64_t row = 0; row < args.rows; ++row) *args.loss_sum += args.losses[row];
}

void sum_of_squares(const OpContext& context, const SumOfSquaresArgs& args) {
  // Chunks of fixed length, so that the order of the sum does not depend on the threads.
  constexpr int64_t kChunk = 1 << 16;
  const int64_t chunks = (args.elements + kChunk - 1) / kChunk;
  auto* sums = reinterpret_cast<double*>(
      context.scratch.get(context.threads.size(), static_cast<size_t>(chunks) * sizeof(double)));
  context.threads.parallel_items(chunks, [&](int64_t chunk, int) {
    const int64_t begin = chunk * kChunk;
    sums[chunk] = sum_of_squares_of(args.x + begin, std::min(kChunk, args.elements - begin));
  });
  double sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += sums[chunk];
  *args.sum = sum;
}

void adamw(const OpContext& context, const AdamWArgs& args) {
  const auto steps = static_cast<double>(args.step);
  const AdamWStep step{
      .scale = static_cast<float>(clipping_scale(args)),
      .decay = static_cast<float>(1.0 - double{args.learning_rate} * args.weight_decay),
      .rate = static_cast<float>(args.learning_rate / (1.0 - std::pow(double{args.beta1}, steps))),
      .correction = static_cast<float>(1.0 / (1.0 - std::pow(double{args.beta2}, steps)))};
  context.threads.parallel_for(args.elements, 16384, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(adamw_range)(args, step, begin, end);
  });
}

}  // namespace onggi::cpu
#endif  // HWY_ONCE

// How fast the CPU's kernels multiply. `GFLOP/s` counts the useful multiplications and additions (2 N K per
// token of a linear layer; of attention what the causal mask leaves) per second of wall time;
// `GFLOP/core_s` the same per second of CPU time, which other programs on the machine disturb less: times the
// cores it is the rate of a machine of one's own.
#include <benchmark/benchmark.h>
#include <time.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "blocks/block_format.h"
#include "blocks/nf4.h"
#include "kernels/ops/weight.h"
#include "kernels/table.h"

namespace onggi {
namespace {

struct Machine {
  ThreadPool pool;
  Scratch scratch{pool.size()};
  OpContext context{pool, scratch};
};
const OpContext& context() {
  static Machine machine;
  return machine.context;
}

std::vector<float> normal(int64_t count) {
  Random random(1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = random.normal();
  return values;
}

double cpu_seconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Runs `op`, which takes `flops` operations, and reports both rates.
template <typename Op>
void measure(benchmark::State& state, double flops, const Op& op) {
  op();  // grows the scratch
  const double begin = cpu_seconds();
  for (auto _ : state) op();
  const double total = flops * static_cast<double>(state.iterations()) * 1e-9;
  state.counters["GFLOP/s"] = benchmark::Counter(total, benchmark::Counter::kIsRate);
  state.counters["GFLOP/core_s"] = total / (cpu_seconds() - begin);
}

constexpr int64_t kRows = 3072, kColumns = 1024;

struct Weight {
  explicit Weight(DType dtype) {
    view = {.dtype = dtype, .rows = kRows, .columns = kColumns};
    std::vector<float> values = normal(kRows * kColumns);
    if (dtype == DType::kNF4) {
      Nf4Encoder encoder(kRows, kColumns);
      encoder.encode(0, kRows * kColumns, values.data());
      nf4 = encoder.finish();
      view.data = nf4.packed.data();
      view.nf4_absmax = nf4.absmax_q8.data();
      view.nf4_nested_absmax = nf4.nested_absmax.data();
      view.nf4_offset = nf4.offset;
      return;
    }
    // One encoded row again and again: the values do not matter to the time.
    const auto row_bytes = static_cast<size_t>(weight_row_bytes(view));
    data.resize(kRows * row_bytes);
    block_format(dtype).encode(values.data(), kColumns, nullptr, data.data());
    for (size_t at = row_bytes; at < data.size(); at += row_bytes)
      std::copy_n(data.begin(), row_bytes, data.begin() + static_cast<std::ptrdiff_t>(at));
    view.data = data.data();
  }
  WeightView view;
  std::vector<uint8_t> data;
  Nf4Storage nf4;
};

void linear(benchmark::State& state, DType dtype, Precision precision) {
  const Weight weight(dtype);
  const int64_t tokens = state.range(0);
  const std::vector<float> x = normal(tokens * kColumns);
  std::vector<float> out(static_cast<size_t>(tokens * kRows));
  const LinearArgs args{
      .x = x.data(), .weight = weight.view, .tokens = tokens, .out = out.data(), .precision = precision};
  measure(state, 2.0 * static_cast<double>(tokens * kRows * kColumns),
          [&] { cpu_ops().linear[static_cast<size_t>(dtype)](context(), args); });
}

void linear_backward(benchmark::State& state, DType dtype, Precision precision) {
  const Weight weight(dtype);
  const int64_t tokens = state.range(0);
  const std::vector<float> dout = normal(tokens * kRows);
  std::vector<float> dx(static_cast<size_t>(tokens * kColumns));
  const LinearBackwardArgs args{
      .dout = dout.data(), .weight = weight.view, .tokens = tokens, .dx = dx.data(), .precision = precision};
  measure(state, 2.0 * static_cast<double>(tokens * kRows * kColumns),
          [&] { cpu_ops().linear_backward[static_cast<size_t>(dtype)](context(), args); });
}

// Attention of Qwen3-0.6B over one segment.
struct Attention {
  static constexpr int64_t kQueryHeads = 16, kKvHeads = 8, kDim = 128;
  explicit Attention(int64_t count) : tokens(count), starts{0, static_cast<int32_t>(count)} {}
  AttentionArgs forward() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .segment_starts = starts,
            .segments = 1,
            .tokens = tokens,
            .query_heads = kQueryHeads,
            .kv_heads = kKvHeads,
            .head_dim = kDim,
            .scale = 1.0f / std::sqrt(static_cast<float>(kDim)),
            .out = out.data(),
            .log_sum_exp = log_sum_exp.data()};
  }
  AttentionBackwardArgs backward() {
    return {.dout = dout.data(),
            .q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .out = out.data(),
            .log_sum_exp = log_sum_exp.data(),
            .segment_starts = starts,
            .segments = 1,
            .tokens = tokens,
            .query_heads = kQueryHeads,
            .kv_heads = kKvHeads,
            .head_dim = kDim,
            .scale = 1.0f / std::sqrt(static_cast<float>(kDim)),
            .dq = dq.data(),
            .dk = dk.data(),
            .dv = dv.data()};
  }
  // Two products over the visible half of the scores.
  double forward_flops() const {
    return 4.0 * static_cast<double>(tokens * (tokens + 1) / 2 * kQueryHeads * kDim);
  }

  int64_t tokens;
  int32_t starts[2];
  std::vector<float> q = normal(tokens * kQueryHeads * kDim), k = normal(tokens * kKvHeads * kDim), v = k;
  std::vector<float> dout = q, out = q, dq = q, dk = k, dv = k;
  std::vector<float> log_sum_exp = std::vector<float>(static_cast<size_t>(tokens * kQueryHeads));
};

void attention(benchmark::State& state) {
  Attention data(state.range(0));
  measure(state, data.forward_flops(), [&] { cpu_ops().attention(context(), data.forward()); });
}

void attention_backward(benchmark::State& state) {
  Attention data(state.range(0));
  cpu_ops().attention(context(), data.forward());
  measure(state, 2.5 * data.forward_flops(),
          [&] { cpu_ops().attention_backward(context(), data.backward()); });
}

// LoRA's products: m, n, k.
void gemm(benchmark::State& state, Transpose transpose_a, Transpose transpose_b) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const std::vector<float> a = normal(m * k), b = normal(k * n);
  std::vector<float> c(static_cast<size_t>(m * n));
  const GemmArgs args{.transpose_a = transpose_a,
                      .transpose_b = transpose_b,
                      .m = m,
                      .n = n,
                      .k = k,
                      .a = a.data(),
                      .b = b.data(),
                      .c = c.data()};
  measure(state, 2.0 * static_cast<double>(m * n * k), [&] { cpu_ops().gemm(context(), args); });
}

#define ONGGI_LINEAR(dtype, precision)                                               \
  BENCHMARK_CAPTURE(linear, dtype##_##precision, DType::dtype, Precision::precision) \
      ->Arg(256)                                                                     \
      ->Arg(512)                                                                     \
      ->UseRealTime()
ONGGI_LINEAR(kNF4, kFast);
ONGGI_LINEAR(kBF16, kFast);
ONGGI_LINEAR(kQ4_K, kFast);
ONGGI_LINEAR(kQ6_K, kFast);
ONGGI_LINEAR(kNF4, kF32);
ONGGI_LINEAR(kF32, kF32);
BENCHMARK_CAPTURE(linear_backward, kNF4, DType::kNF4, Precision::kFast)->Arg(256)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(linear_backward, kBF16, DType::kBF16, Precision::kFast)->Arg(256)->UseRealTime();
BENCHMARK_CAPTURE(linear_backward, kNF4_kF32, DType::kNF4, Precision::kF32)->Arg(256)->UseRealTime();
BENCHMARK(attention)->Arg(256)->Arg(2048)->UseRealTime();
BENCHMARK(attention_backward)->Arg(256)->Arg(2048)->UseRealTime();
BENCHMARK_CAPTURE(gemm, down, Transpose::kNo, Transpose::kYes)->Args({256, 16, 1024})->UseRealTime();
BENCHMARK_CAPTURE(gemm, up, Transpose::kNo, Transpose::kYes)->Args({256, 3072, 16})->UseRealTime();
BENCHMARK_CAPTURE(gemm, gradient_a, Transpose::kYes, Transpose::kNo)->Args({16, 1024, 256})->UseRealTime();
BENCHMARK_CAPTURE(gemm, gradient_b, Transpose::kYes, Transpose::kNo)->Args({3072, 16, 256})->UseRealTime();

}  // namespace
}  // namespace onggi

BENCHMARK_MAIN();

// How fast linear_few_tokens reads weights from memory: 2 threads, W [3072, 1024], so many matrices in turn
// that no cache holds them. GB/s are bytes of weights; x T = what T tokens' worth of reading would be.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/random.h"
#include "kernels/cpu/quantized_dot.h"

namespace onggi::cpu {
namespace {

constexpr int64_t kRows = 3072, kColumns = 1024;
constexpr int64_t kTotalBytes = int64_t{512} << 20;
constexpr int kThreads = 2;

// A megabyte of random bytes again and again; f16 fields may be any number, which changes no instruction's
// time.
std::vector<uint8_t> random_bytes(int64_t count) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  const size_t period = std::min(bytes.size(), size_t{1} << 20);
  Random random(1);
  for (size_t i = 0; i < period; ++i) bytes[i] = static_cast<uint8_t>(random.below(64));
  for (size_t i = period; i < bytes.size(); i += period)
    std::memcpy(bytes.data() + i, bytes.data(), std::min(period, bytes.size() - i));
  return bytes;
}

void few_tokens(benchmark::State& state, DType dtype, DotLevel level) {
  const int64_t tokens = state.range(0);
  const int64_t matrix_bytes = kRows * dtype_bytes(dtype, kColumns);
  const int64_t matrices = kTotalBytes / matrix_bytes;
  const std::vector<uint8_t> data = random_bytes(matrices * matrix_bytes);
  const std::vector<uint8_t> absmax = random_bytes(kRows * kColumns / 64);
  const std::vector<float> nested(absmax.size() / 256, 0.01f),
      x(static_cast<size_t>(tokens * kColumns), 0.5f);
  std::vector<float> out(static_cast<size_t>(tokens * kRows));
  ThreadPool pool(kThreads);
  Scratch scratch(kThreads);
  const OpContext context{pool, scratch};
  WeightView weight{dtype, kRows, kColumns, nullptr, absmax.data(), nested.data(), 0.03f};
  int64_t matrix = 0;
  for (auto _ : state) {
    weight.data = data.data() + matrix * matrix_bytes;
    linear_few_tokens_at(level, context, {x.data(), weight, tokens, out.data()});
    matrix = (matrix + 1) % matrices;
  }
  const double bytes_read = static_cast<double>(state.iterations()) * static_cast<double>(matrix_bytes);
  state.counters["GB/s"] = benchmark::Counter(bytes_read * 1e-9, benchmark::Counter::kIsRate);
  state.counters["GB/s x T"] =
      benchmark::Counter(bytes_read * 1e-9 * static_cast<double>(tokens), benchmark::Counter::kIsRate);
}

}  // namespace
}  // namespace onggi::cpu

int main(int argc, char** argv) {
  using namespace onggi;
  benchmark::Initialize(&argc, argv);
  for (const cpu::DotLevel level : cpu::available_dot_levels())
    for (int i = 0; i < kDTypeCount; ++i) {
      const auto dtype = static_cast<DType>(i);
      if (!cpu::has_few_token_kernel(dtype)) continue;
      const std::string name =
          "level" + std::to_string(static_cast<int>(level)) + "/" + std::string(dtype_name(dtype));
      benchmark::RegisterBenchmark(name.c_str(), cpu::few_tokens, dtype, level)
          ->Arg(1)
          ->Arg(2)
          ->Arg(3)
          ->Arg(4)
          ->Arg(5)
          ->Arg(8)
          ->Arg(16)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

#include "cli/bench_limits.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "base/clock.h"
#include "base/random.h"

namespace onggi {

double product_rate(const Compute& compute) {
  Stream& stream = compute.stream();
  const bool on_gpu = stream.device().kind == DeviceKind::kCuda;
  const int64_t size = on_gpu ? 8192 : 2048, tokens = on_gpu ? 8192 : 512;
  Random random(1, 99);
  std::vector<uint16_t> values(static_cast<size_t>(size * size));
  for (uint16_t& value : values) value = f32_to_bf16(2 * random.uniform() - 1);
  const Buffer weight = stream.allocate(values.size() * sizeof(uint16_t));
  stream.copy_in(weight.data(), values.data(), weight.bytes());
  const DType dtype = compute.activation_dtype();
  const auto bytes = static_cast<size_t>(dtype_bytes(dtype, tokens * size));
  const Buffer x = stream.allocate(bytes), out = stream.allocate(bytes);
  if (dtype == DType::kBF16) {
    stream.copy_in(x.data(), values.data(), bytes);
  } else {
    std::vector<float> wide(static_cast<size_t>(tokens * size));
    for (float& value : wide) value = 2 * random.uniform() - 1;
    stream.copy_in(x.data(), wide.data(), bytes);
  }
  LinearArgs args{.x = {x.data(), dtype},
                  .weight = {DType::kBF16, size, size, weight.data()},
                  .tokens = tokens,
                  .out = {out.data(), dtype}};
  std::vector<double> rates;
  for (int i = 0; i < 7; ++i) {
    const Stopwatch watch;
    constexpr int kRuns = 3;
    for (int run = 0; run < kRuns; ++run)
      run_op(compute.ops.linear, "linear", compute.ops, DType::kBF16, compute.context, args);
    stream.synchronize();
    rates.push_back(2.0 * kRuns * static_cast<double>(tokens * size * size) / watch.seconds());
  }
  return *std::max_element(rates.begin(), rates.end());
}

double copy_rate(Stream& stream) {
  constexpr size_t kBytes = size_t{2} << 30;
  const Buffer from = stream.allocate(kBytes), to = stream.allocate(kBytes);
  stream.fill_zero(from.data(), kBytes);
  std::vector<double> rates;
  for (int i = 0; i < 7; ++i) {
    stream.synchronize();
    const Stopwatch watch;
    stream.copy(to.data(), from.data(), kBytes);
    stream.synchronize();
    rates.push_back(2.0 * kBytes / watch.seconds());
  }
  return *std::max_element(rates.begin(), rates.end());
}

double read_rate(ThreadPool& threads) {
  std::vector<uint64_t> memory((size_t{256} << 20) / sizeof(uint64_t), 1);
  std::vector<uint64_t> sums(static_cast<size_t>(threads.size()) * 8);
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i) {
    const Stopwatch watch;
    threads.parallel_for(static_cast<int64_t>(memory.size()), 8, [&](int64_t begin, int64_t end, int thread) {
      uint64_t lanes[8] = {};
      for (int64_t at = begin; at + 8 <= end; at += 8)
        for (int lane = 0; lane < 8; ++lane) lanes[lane] ^= memory[static_cast<size_t>(at + lane)];
      sums[static_cast<size_t>(thread) * 8] += std::accumulate(lanes, lanes + 8, uint64_t{0});
    });
    rates.push_back(static_cast<double>(memory.size() * sizeof(uint64_t)) / watch.seconds());
  }
  return *std::max_element(rates.begin(), rates.end());
}

}  // namespace onggi

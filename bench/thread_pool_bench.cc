// What a loop of the thread pool costs beside its work: an empty one, back to back (0) and after some
// thousand additions of serial work, as between the ops of a decode step.
#include <benchmark/benchmark.h>

#include "base/threads.h"

namespace onggi {
namespace {

void work_and_empty_loop(benchmark::State& state) {
  ThreadPool pool(2);
  double value = 0;
  for (auto _ : state) {
    for (int64_t i = 0; i < state.range(0); ++i) benchmark::DoNotOptimize(value += 1e-9);
    pool.parallel_for(2, 1, [](int64_t, int64_t, int) {});
  }
}

BENCHMARK(work_and_empty_loop)->Arg(0)->Arg(1000)->Arg(10000)->UseRealTime();

}  // namespace
}  // namespace onggi

BENCHMARK_MAIN();

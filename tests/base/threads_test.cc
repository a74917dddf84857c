#include "base/threads.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <set>
#include <stdexcept>
#include <thread>
#include <tuple>
#include <vector>

#include "base/error.h"

namespace onggi {
namespace {

using Parts = std::set<std::tuple<int64_t, int64_t, int>>;

Parts parts_of(ThreadPool& pool, int64_t n, int64_t grain) {
  std::mutex mutex;
  Parts parts;
  pool.parallel_for(n, grain, [&](int64_t begin, int64_t end, int thread) {
    std::lock_guard lock(mutex);
    parts.insert({begin, end, thread});
  });
  return parts;
}

TEST(ThreadPool, SplitsIntoAlignedPartsThatCoverEverythingOnce) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 2, 15, 16, 17, 1000}) {
      for (const int64_t grain : {1, 16}) {
        int64_t next = 0;
        for (const auto& [begin, end, thread] : parts_of(pool, n, grain)) {
          EXPECT_EQ(begin, next) << n << " by " << grain << " on " << threads;
          EXPECT_EQ(begin % grain, 0);
          EXPECT_LT(begin, end);
          EXPECT_LT(thread, threads);
          next = end;
        }
        EXPECT_EQ(next, n);
      }
    }
  }
}

TEST(ThreadPool, TheSplitIsTheSameEachTime) {
  ThreadPool pool(3);
  const Parts expected = {{0, 32, 0}, {32, 64, 1}, {64, 100, 2}};
  for (int repeat = 0; repeat < 200; ++repeat) ASSERT_EQ(parts_of(pool, 100, 16), expected);
}

TEST(ThreadPool, EachItemIsHandedOutOnce) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> counts(1000);
  pool.parallel_items(1000, [&](int64_t item, int thread) {
    EXPECT_LT(thread, 4);
    ++counts[static_cast<size_t>(item)];
  });
  for (const auto& count : counts) ASSERT_EQ(count, 1);
}

// Loops back to back, loops after the workers fell asleep, and workers that outlast the caller's patience:
// every way of waking up. A lost wake-up would hang here.
TEST(ThreadPool, NoLoopIsLostWhetherWorkersPollOrSleep) {
  for (const int threads : {2, 2 * available_cpus() + 1}) {
    ThreadPool pool(threads);
    int64_t sum = 0;
    for (int loop = 0; loop < 3000; ++loop) {
      std::atomic<int64_t> part{0};
      pool.parallel_for(threads, 1, [&](int64_t begin, int64_t, int thread) {
        if (loop % 500 == 1 && thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        part += begin;
      });
      sum += part;
      if (loop % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      // About the time after which pollers go to sleep: meets them in the act.
      if (loop % 10 == 0) {
        const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
        while (std::chrono::steady_clock::now() < until) {
        }
      }
    }
    EXPECT_EQ(sum, 3000 * (int64_t{threads} * (threads - 1) / 2));
  }
}

TEST(ThreadPool, TheFirstExceptionComesOutAndThePoolStaysUsable) {
  ThreadPool pool(3);
  for (const int thrower : {0, 1, 2}) {
    const auto loop = [&] {
      pool.parallel_for(3, 1, [&](int64_t begin, int64_t, int) {
        if (begin == thrower) throw std::runtime_error("body " + std::to_string(begin));
      });
    };
    EXPECT_THAT(loop, testing::ThrowsMessage<std::runtime_error>("body " + std::to_string(thrower)));
    EXPECT_EQ(parts_of(pool, 3, 1).size(), 3u);
  }
}

TEST(ThreadPool, ANestedLoopIsABug) {
  ThreadPool pool(2);
  for (const int nesting_thread : {0, 1}) {
    EXPECT_THROW(pool.parallel_for(2, 1,
                                   [&](int64_t begin, int64_t, int) {
                                     if (begin == nesting_thread)
                                       pool.parallel_for(2, 1, [](int64_t, int64_t, int) {});
                                   }),
                 InternalError);
  }
  EXPECT_EQ(parts_of(pool, 2, 1).size(), 2u);
}

double process_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(ThreadPool, AnIdlePoolUsesNoCpu) {
  ThreadPool pool(2);
  pool.parallel_for(2, 1, [](int64_t, int64_t, int) {});
  const double before = process_cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(process_cpu_seconds() - before, 0.02);
}

TEST(ThreadPool, DefaultTakesTheAvailableCpus) {
  EXPECT_GE(available_cpus(), 1);
  EXPECT_EQ(ThreadPool().size(), available_cpus());
}

}  // namespace
}  // namespace onggi

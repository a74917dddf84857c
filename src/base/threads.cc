#include "base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <fstream>
#include <string>
#include <utility>

#include "base/error.h"

namespace onggi {
namespace {

// Longer than the serial work between two ops of a decode step, shorter than anybody notices on an idle
// machine.
constexpr std::chrono::microseconds kPollTime{50};

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

int available_cpus() {
  cpu_set_t set;
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
  // A container's quota (cgroup v2): "max 100000" or "200000 100000".
  std::ifstream quota_file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (quota_file >> quota >> period && quota != "max" && period > 0)
    cpus = std::min(cpus, static_cast<int>(std::ceil(std::stod(quota) / period)));
  return std::max(cpus, 1);
}

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = available_cpus();
  polls_ = threads <= available_cpus();
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  publish();
  for (auto& thread : workers_) thread.join();
}

// Whether done() came true within the time for polling.
template <typename Done>
bool ThreadPool::poll(const Done& done) const {
  if (done()) return true;
  if (!polls_) return false;
  const auto deadline = std::chrono::steady_clock::now() + kPollTime;
  do {
    for (int i = 0; i < 16; ++i) {
      pause_cpu();
      if (done()) return true;
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

// The two flags "I sleep" (sleepers_, caller_sleeps_) and the two conditions that sleepers wait for
// (generation_, running_) are sequentially consistent: whoever goes to sleep raises the flag and then looks
// at the condition; whoever makes the condition true does so and then looks at the flag. One of the two sees
// the other, so no wake-up is lost, and nobody takes the mutex while the others poll.

void ThreadPool::publish() {
  generation_.fetch_add(1);
  if (sleepers_.load() == 0) return;
  { std::lock_guard lock(mutex_); }  // a sleeper between its look and its wait holds the mutex
  wake_.notify_all();
}

void ThreadPool::await_next(uint64_t seen) {
  const auto next = [&] { return generation_.load() != seen; };
  if (poll(next)) return;
  std::unique_lock lock(mutex_);
  sleepers_.fetch_add(1);
  wake_.wait(lock, next);
  sleepers_.fetch_sub(1);
}

void ThreadPool::finish_one() {
  if (running_.fetch_sub(1) != 1 || !caller_sleeps_.load()) return;
  { std::lock_guard lock(mutex_); }
  done_.notify_one();
}

void ThreadPool::await_workers() {
  const auto finished = [&] { return running_.load() == 0; };
  if (poll(finished)) return;
  std::unique_lock lock(mutex_);
  caller_sleeps_ = true;
  done_.wait(lock, finished);
  caller_sleeps_ = false;
}

void ThreadPool::call(const Job& job, int thread) {
  try {
    job.call(job.body, thread);
  } catch (...) {
    std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::worker(int index) {
  uint64_t seen = 0;
  for (;;) {
    await_next(seen);
    if (stopping_) return;
    ++seen;  // the next loop starts only after this thread finished the present one
    call(job_, index);
    finish_one();
  }
}

void ThreadPool::run_job(Job job) {
  ONGGI_CHECK(!busy_.exchange(true, std::memory_order_acquire),
              "loops of one pool may not be nested or shared between threads");
  job_ = job;
  running_ = static_cast<int>(workers_.size());
  publish();
  call(job, 0);
  await_workers();
  const std::exception_ptr error = std::exchange(error_, nullptr);
  busy_.store(false, std::memory_order_release);
  if (error) std::rethrow_exception(error);
}

void ThreadPool::parallel_for(int64_t n, int64_t grain,
                              const std::function<void(int64_t, int64_t, int)>& body) {
  if (n <= 0) return;
  const int64_t parts = size();
  const int64_t units = (n + grain - 1) / grain;
  const auto bound = [&](int64_t part) { return std::min(n, units * part / parts * grain); };
  if (parts == 1 || units == 1) {
    body(0, n, 0);
    return;
  }
  auto part = [&](int index) {
    const int64_t begin = bound(index), end = bound(index + 1);
    if (begin < end) body(begin, end, index);
  };
  run(part);
}

void ThreadPool::parallel_items(int64_t n, const std::function<void(int64_t, int)>& body) {
  if (n <= 0) return;
  if (size() == 1 || n == 1) {
    for (int64_t i = 0; i < n; ++i) body(i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  auto items = [&](int index) {
    for (int64_t i = next++; i < n; i = next++) body(i, index);
  };
  run(items);
}

}  // namespace onggi

#include "base/threads.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <fstream>
#include <string>

#include "base/error.h"

namespace onggi {

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
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (auto& thread : workers_) thread.join();
}

void ThreadPool::worker(int index) {
  uint64_t seen = 0;
  for (;;) {
    const std::function<void(int)>* job = nullptr;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      job = job_;
    }
    (*job)(index);
    {
      std::lock_guard lock(mutex_);
      if (--running_ == 0) done_.notify_one();
    }
  }
}

void ThreadPool::run(const std::function<void(int)>& job) {
  std::exception_ptr error;
  std::mutex error_mutex;
  const std::function<void(int)> guarded = [&](int index) {
    try {
      job(index);
    } catch (...) {
      std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  };
  {
    std::lock_guard lock(mutex_);
    ONGGI_CHECK(running_ == 0, "loops of one pool may not be nested or shared between threads");
    job_ = &guarded;
    running_ = static_cast<int>(workers_.size());
    ++generation_;
  }
  wake_.notify_all();
  guarded(0);
  {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return running_ == 0; });
  }
  if (error) std::rethrow_exception(error);
}

void ThreadPool::parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t, int)>& body) {
  if (n <= 0) return;
  const int64_t parts = size();
  const int64_t units = (n + grain - 1) / grain;
  const auto bound = [&](int64_t part) { return std::min(n, units * part / parts * grain); };
  if (parts == 1 || units == 1) {
    body(0, n, 0);
    return;
  }
  run([&](int index) {
    const int64_t begin = bound(index), end = bound(index + 1);
    if (begin < end) body(begin, end, index);
  });
}

void ThreadPool::parallel_items(int64_t n, const std::function<void(int64_t, int)>& body) {
  if (n <= 0) return;
  if (size() == 1 || n == 1) {
    for (int64_t i = 0; i < n; ++i) body(i, 0);
    return;
  }
  std::atomic<int64_t> next{0};
  run([&](int index) {
    for (int64_t i = next++; i < n; i = next++) body(i, index);
  });
}

}  // namespace onggi

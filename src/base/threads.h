// A fixed set of worker threads for data-parallel loops.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace onggi {

// Passed explicitly to whoever computes; there is no global pool. One loop runs at a time: the pool belongs to one
// caller (the training loop, or the engine thread of a server).
class ThreadPool {
 public:
  // threads = 0 takes the number of CPUs that this process may use.
  explicit ThreadPool(int threads = 0);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Splits [0, n) into size() contiguous parts of nearly equal length, aligned to `grain`, and calls
  // body(begin, end, thread) for each non-empty part; the caller's thread takes part 0. The split depends on n, grain
  // and size() alone, so that results are the same bits each time. The first exception thrown by a body is rethrown.
  void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t, int)>& body);

  // Hands out items 0 .. n-1 one by one to whichever thread is free: for items of uneven cost whose results do not
  // depend on the thread.
  void parallel_items(int64_t n, const std::function<void(int64_t, int)>& body);

 private:
  void run(const std::function<void(int)>& job);
  void worker(int index);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  const std::function<void(int)>* job_ = nullptr;
  uint64_t generation_ = 0;
  int running_ = 0;
  bool stopping_ = false;
};

// CPUs that this process may run on (affinity and cgroup quota respected), at least 1.
int available_cpus();

}  // namespace onggi

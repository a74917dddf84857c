// A fixed set of worker threads for data-parallel loops.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace onggi {

// Passed explicitly to whoever computes; there is no global pool. One loop runs at a time: the pool belongs
// to one caller (the training loop, or the engine thread of a server). A body must not start a loop of the
// same pool (InternalError).
//
// Decoding one token runs some 200 short loops, so waking must be fast: after a loop, workers poll for the
// next one for some microseconds before they sleep, and so does the caller for the workers' end. Where there
// are more threads than CPUs nobody polls: it would take the CPU from the thread that is waited for.
class ThreadPool {
 public:
  // threads = 0 takes the number of CPUs that this process may use.
  explicit ThreadPool(int threads = 0);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Splits [0, n) into size() contiguous parts of nearly equal length, aligned to `grain`, and calls
  // body(begin, end, thread) for each non-empty part; the caller's thread takes part 0. The split depends on
  // n, grain and size() alone, so that results are the same bits each time. The first exception thrown by a
  // body is rethrown.
  void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t, int)>& body);

  // Hands out items 0 .. n-1 one by one to whichever thread is free: for items of uneven cost whose results
  // do not depend on the thread. After an exception the other threads still finish the items.
  void parallel_items(int64_t n, const std::function<void(int64_t, int)>& body);

 private:
  // A call without an owner: one std::function per loop would allocate.
  struct Job {
    void (*call)(void* body, int thread) = nullptr;
    void* body = nullptr;
  };
  template <typename Body>
  void run(Body& body) {
    run_job({[](void* erased, int thread) { (*static_cast<Body*>(erased))(thread); }, &body});
  }
  void run_job(Job job);
  void call(const Job& job, int thread);
  void publish();
  void await_next(uint64_t seen);
  void finish_one();
  void await_workers();
  void worker(int index);
  template <typename Done>
  bool poll(const Done& done) const;

  std::vector<std::thread> workers_;
  bool polls_ = false;
  std::atomic<bool> busy_{false};  // a loop is running
  // Written by the caller before generation_ tells the workers.
  Job job_;
  bool stopping_ = false;
  std::atomic<uint64_t> generation_{0};  // counts loops
  std::atomic<int> running_{0};          // workers that have not finished the present loop
  std::exception_ptr error_;             // the present loop's first; under mutex_ while workers run
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
};

// CPUs that this process may run on (affinity and cgroup quota respected), at least 1.
int available_cpus();

}  // namespace onggi

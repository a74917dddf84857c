// The threads that serve connections: as many as there are connections, up to a bound.
#pragma once

#include <httplib.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace onggi {

// Counts the requests in work, from their head to the last byte of the answer. One request at a time per
// thread.
class RequestsInWork {
 public:
  void begin();
  // Of the calling thread; nothing where it has none.
  void end();
  // Waits until there is none, at most so long.
  void wait(std::chrono::seconds limit);

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int count_ = 0;
};

// A connection occupies its thread until it closes (the library's model), so threads start on demand. When
// all are busy, a second, small set takes connections only to answer that the server is busy: nobody waits in
// a queue that he cannot see.
class ConnectionPool : public httplib::TaskQueue {
 public:
  ConnectionPool(int max_threads, RequestsInWork& in_work) : max_threads_(max_threads), in_work_(in_work) {}

  void enqueue(std::function<void()> job) override;
  void shutdown() override;

  // Whether the calling thread is one of those that only answer "busy".
  static bool answers_busy();

 private:
  static constexpr int kBusyThreads = 4;
  struct Lane {
    std::deque<std::function<void()>> jobs;
    std::condition_variable wake;
    std::vector<std::thread> threads;
    int idle = 0;
  };
  void work(Lane& lane);
  void add_thread(Lane& lane, int limit);

  const int max_threads_;
  RequestsInWork& in_work_;
  std::mutex mutex_;
  bool stopping_ = false;
  Lane normal_, busy_;
};

}  // namespace onggi

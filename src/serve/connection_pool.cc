#include "serve/connection_pool.h"

#include <exception>
#include <utility>

#include "base/log.h"

namespace onggi {
namespace {
thread_local bool t_answers_busy = false;
thread_local bool t_has_request = false;
}  // namespace

void RequestsInWork::begin() {
  if (std::exchange(t_has_request, true)) return;
  const std::lock_guard lock(mutex_);
  ++count_;
}

void RequestsInWork::end() {
  if (!std::exchange(t_has_request, false)) return;
  const std::lock_guard lock(mutex_);
  if (--count_ == 0) none_.notify_all();
}

void RequestsInWork::wait(std::chrono::seconds limit) {
  std::unique_lock lock(mutex_);
  none_.wait_for(lock, limit, [&] { return count_ == 0; });
}

bool ConnectionPool::answers_busy() { return t_answers_busy; }

void ConnectionPool::enqueue(std::function<void()> job) {
  std::lock_guard lock(mutex_);
  const int threads = static_cast<int>(normal_.threads.size());
  const int waiting = static_cast<int>(normal_.jobs.size());
  const bool full = waiting >= normal_.idle && threads >= max_threads_;
  Lane& lane = full ? busy_ : normal_;
  lane.jobs.push_back(std::move(job));
  if (static_cast<int>(lane.jobs.size()) > lane.idle) add_thread(lane, full ? kBusyThreads : max_threads_);
  lane.wake.notify_one();
}

void ConnectionPool::add_thread(Lane& lane, int limit) {
  if (static_cast<int>(lane.threads.size()) >= limit) return;
  const bool busy = &lane == &busy_;
  lane.threads.emplace_back([this, &lane, busy] {
    t_answers_busy = busy;
    work(lane);
  });
}

void ConnectionPool::work(Lane& lane) {
  std::unique_lock lock(mutex_);
  for (;;) {
    ++lane.idle;
    lane.wake.wait(lock, [&] { return stopping_ || !lane.jobs.empty(); });
    --lane.idle;
    if (lane.jobs.empty()) return;  // stopping
    const std::function<void()> job = std::move(lane.jobs.front());
    lane.jobs.pop_front();
    lock.unlock();
    try {
      job();
    } catch (const std::exception& error) {  // a request never ends the process
      spdlog::error("a connection ended with an exception: {}", error.what());
    }
    in_work_.end();  // where the answer could not be written
    lock.lock();
  }
}

void ConnectionPool::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  normal_.wake.notify_all();
  busy_.wake.notify_all();
  for (Lane* lane : {&normal_, &busy_})
    for (std::thread& thread : lane->threads) thread.join();
}

}  // namespace onggi

// The queue of events between the engine's thread and one client.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "infer/engine.h"

namespace onggi {

class GenerationStream {
 public:
  // The engine's side.
  void push(GenerationEvent event) {
    {
      const std::lock_guard lock(mutex_);
      events_.push_back(std::move(event));
    }
    arrived_.notify_one();
  }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

  // The client's side.
  std::optional<GenerationEvent> next(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    if (taken_last_) return std::nullopt;
    arrived_.wait_for(lock, timeout, [&] { return !events_.empty(); });
    if (events_.empty()) return std::nullopt;
    GenerationEvent event = std::move(events_.front());
    events_.pop_front();
    taken_last_ = event.result.has_value();
    return event;
  }
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<GenerationEvent> events_;
  bool taken_last_ = false;
  std::atomic<bool> cancelled_ = false;
};

}  // namespace onggi

// Time: durations by the monotonic clock, dates by the wall clock.
#pragma once

#include <chrono>
#include <string>

namespace onggi {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  void restart() { start_ = std::chrono::steady_clock::now(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The present time in UTC as RFC 3339 with nanoseconds, e.g. 2026-11-24T07:37:34.000000000Z.
std::string utc_now_rfc3339();

}  // namespace onggi

// How much each key may ask for: requests in a minute, tokens in a day.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace onggi {

struct QuotaLimits {
  int64_t requests_per_minute = 0;  // 0: no limit
  int64_t tokens_per_day = 0;       // of prompts and answers, from midnight to midnight UTC; 0: no limit
};

// Counts by client: the API key, or the address where no keys are asked for. Thread-safe. Counts live as long
// as the process.
class Quota {
 public:
  using Clock = std::function<std::chrono::system_clock::time_point()>;
  explicit Quota(QuotaLimits limits, Clock clock = std::chrono::system_clock::now)
      : limits_(limits), clock_(std::move(clock)) {}

  struct Refusal {
    std::string message;
    int64_t retry_after_s = 1;  // at least 1
  };
  // Counts a request, or says why it is refused; refused requests do not count.
  std::optional<Refusal> admit(const std::string& client);
  // Counts what a request that was admitted has used.
  void add_tokens(const std::string& client, int64_t tokens);

 private:
  using TimePoint = std::chrono::system_clock::time_point;
  struct Client {
    std::deque<TimePoint> requests;  // of the last minute
    std::chrono::sys_days day{};
    int64_t tokens = 0;  // of that day
  };
  Client& client_at(const std::string& name, TimePoint now);
  void forget_idle(TimePoint now);

  const QuotaLimits limits_;
  const Clock clock_;
  std::mutex mutex_;
  std::map<std::string, Client> clients_;
  // Addresses come and go; beyond so many, those without counts are forgotten.
  static constexpr size_t kManyClients = 4096;
  size_t forget_at_ = kManyClients;
};

}  // namespace onggi

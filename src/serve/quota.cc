#include "serve/quota.h"

#include "base/text.h"

namespace onggi {
namespace {

constexpr std::chrono::seconds kWindow{60};

int64_t whole_seconds(std::chrono::system_clock::duration wait) {
  return std::max<int64_t>(1, std::chrono::ceil<std::chrono::seconds>(wait).count());
}

}  // namespace

Quota::Client& Quota::client_at(const std::string& name, TimePoint now) {
  if (clients_.size() >= forget_at_) forget_idle(now);
  Client& client = clients_[name];
  while (!client.requests.empty() && client.requests.front() + kWindow <= now) client.requests.pop_front();
  const auto today = std::chrono::floor<std::chrono::days>(now);
  if (client.day != today) {
    client.day = today;
    client.tokens = 0;
  }
  return client;
}

void Quota::forget_idle(TimePoint now) {
  const auto today = std::chrono::floor<std::chrono::days>(now);
  std::erase_if(clients_, [&](const auto& entry) {
    const Client& client = entry.second;
    return (client.requests.empty() || client.requests.back() + kWindow <= now) &&
           (client.day != today || client.tokens == 0);
  });
  // Not at every request while many are busy.
  forget_at_ = std::max(kManyClients, 2 * clients_.size());
}

std::optional<Quota::Refusal> Quota::admit(const std::string& name) {
  if (limits_.requests_per_minute <= 0 && limits_.tokens_per_day <= 0) return std::nullopt;
  const std::lock_guard lock(mutex_);
  const TimePoint now = clock_();
  Client& client = client_at(name, now);
  if (limits_.tokens_per_day > 0 && client.tokens >= limits_.tokens_per_day)
    return Refusal{text("the limit of {} tokens a day is reached; it begins anew at midnight UTC",
                        limits_.tokens_per_day),
                   whole_seconds(client.day + std::chrono::days(1) - now)};
  if (limits_.requests_per_minute > 0 &&
      static_cast<int64_t>(client.requests.size()) >= limits_.requests_per_minute)
    return Refusal{
        text("the limit of {} requests a minute is reached; try again later", limits_.requests_per_minute),
        whole_seconds(client.requests.front() + kWindow - now)};
  if (limits_.requests_per_minute > 0) client.requests.push_back(now);
  return std::nullopt;
}

void Quota::add_tokens(const std::string& name, int64_t tokens) {
  if (limits_.tokens_per_day <= 0 || tokens <= 0) return;
  const std::lock_guard lock(mutex_);
  client_at(name, clock_()).tokens += tokens;
}

}  // namespace onggi

#include "serve/quota.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace onggi {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;

struct Time {
  // 23:00 UTC of some day.
  std::chrono::system_clock::time_point now = std::chrono::sys_days(std::chrono::year(2026) / 11 / 24) + 23h;
  Quota::Clock clock() {
    return [this] { return now; };
  }
};

TEST(Quota, WithoutLimitsEverybodyMay) {
  Quota quota({});
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(quota.admit("a"));
}

TEST(Quota, AMinuteSlides) {
  Time time;
  Quota quota({.requests_per_minute = 3}, time.clock());
  EXPECT_FALSE(quota.admit("a"));
  time.now += 20s;
  EXPECT_FALSE(quota.admit("a"));
  EXPECT_FALSE(quota.admit("a"));
  const auto refused = quota.admit("a");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->retry_after_s, 40);
  EXPECT_THAT(refused->message, HasSubstr("3 requests a minute"));
  EXPECT_FALSE(quota.admit("b")) << "each client has its own minute";
  time.now += 39999ms;
  EXPECT_EQ(quota.admit("a")->retry_after_s, 1);
  time.now += 1ms;
  EXPECT_FALSE(quota.admit("a"));
  EXPECT_EQ(quota.admit("a")->retry_after_s, 20) << "refused requests do not count";
}

TEST(Quota, ADayOfTokens) {
  Time time;
  Quota quota({.tokens_per_day = 100}, time.clock());
  EXPECT_FALSE(quota.admit("a"));
  quota.add_tokens("a", 99);
  EXPECT_FALSE(quota.admit("a"));
  quota.add_tokens("a", 50);
  const auto refused = quota.admit("a");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->retry_after_s, 3600);
  EXPECT_THAT(refused->message, HasSubstr("100 tokens a day"));
  EXPECT_FALSE(quota.admit("b"));
  time.now += 1h;
  EXPECT_FALSE(quota.admit("a"));
}

TEST(Quota, ForgetsThoseWhoLeft) {
  Time time;
  Quota quota({.requests_per_minute = 1}, time.clock());
  for (int i = 0; i < 5000; ++i) EXPECT_FALSE(quota.admit(std::to_string(i)));
  EXPECT_TRUE(quota.admit("4999"));
  time.now += 61s;
  for (int i = 0; i < 5000; ++i) EXPECT_FALSE(quota.admit(std::to_string(i)));
}

}  // namespace
}  // namespace onggi

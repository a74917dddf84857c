#include "infer/stop_matcher.h"

#include <gtest/gtest.h>

namespace onggi {
namespace {

// Feeds a text in pieces of n bytes.
std::string through(StopMatcher& matcher, const std::string& text, size_t n) {
  std::string out;
  for (size_t i = 0; i < text.size(); i += n) out += matcher.push(text.substr(i, n));
  return out;
}

TEST(StopMatcher, CutsBeforeTheStopString) {
  for (size_t n = 1; n < 12; ++n) {
    StopMatcher matcher({"END", "\n\n"});
    EXPECT_EQ(through(matcher, "one EN two\nENEND rest\n\n", n), "one EN two\nEN") << n;
    EXPECT_EQ(matcher.found(), "END");
    EXPECT_EQ(matcher.flush(), "");
  }
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBeAStart) {
  StopMatcher matcher({"<|stop|>", "aab"});
  EXPECT_EQ(matcher.push("text <"), "text ");
  EXPECT_EQ(matcher.push("|st"), "");
  EXPECT_EQ(matcher.push("art aa"), "<|start ");
  EXPECT_EQ(matcher.push("a"), "a");
  EXPECT_EQ(matcher.flush(), "aa");
  EXPECT_EQ(matcher.found(), "");
}

TEST(StopMatcher, TakesTheFirstOfSeveral) {
  StopMatcher matcher({"cd", "bc"});
  EXPECT_EQ(matcher.push("abcd"), "a");
  EXPECT_EQ(matcher.found(), "bc");
  EXPECT_EQ(matcher.push("more"), "");
}

TEST(StopMatcher, WithoutStopsHoldsNothing) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.push("안녕"), "안녕");
}

}  // namespace
}  // namespace onggi

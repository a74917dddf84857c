#include "tokenizer/token_ids.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <unordered_map>

namespace onggi {
namespace {

TEST(TokenIds, FindsWhatAMapFinds) {
  std::mt19937 random(1);
  StringList tokens;
  std::unordered_map<std::string, int32_t> expected;
  for (int32_t id = 0; id < 20000; ++id) {
    // Some come again, and some ids are not used.
    const std::string token = std::to_string(random() % 15000).substr(random() % 2);
    tokens.push_back(token);
    if (!token.empty()) expected.emplace(token, id);
  }
  const TokenIds ids(tokens);
  for (const auto& [token, id] : expected) ASSERT_EQ(ids.find(token), id) << token;
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(ids.find("x" + std::to_string(i)), std::nullopt);
  EXPECT_EQ(ids.find(""), std::nullopt);
}

TEST(TokenIds, OfNothingFindNothing) {
  const StringList none;
  EXPECT_EQ(TokenIds(none).find("a"), std::nullopt);
}

}  // namespace
}  // namespace onggi

#include "base/string_list.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace onggi {
namespace {

TEST(StringList, HoldsWhatAVectorOfStringsHolds) {
  std::mt19937 random(1);
  std::vector<std::string> expected;
  StringList list;
  for (int i = 0; i < 3000; ++i) {
    if (!expected.empty() && random() % 5 == 0) {
      expected.pop_back();
      list.pop_back();
    } else {
      expected.emplace_back(random() % 40, static_cast<char>(random() % 256));
      list.push_back(expected.back());
    }
    ASSERT_EQ(list.size(), expected.size());
    if (!expected.empty()) {
      ASSERT_EQ(list.back(), expected.back());
    }
  }
  EXPECT_TRUE(std::equal(list.begin(), list.end(), expected.begin(), expected.end()));
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(list[i], expected[i]) << i;
  StringList copy = list;
  EXPECT_EQ(copy, list);
  copy.push_back("");
  EXPECT_NE(copy, list);
}

TEST(StringList, FindsTheBordersOfEmptyStrings) {
  const StringList list = {"", "a", "", std::string_view("\0b", 2), ""};
  ASSERT_EQ(list.size(), 5U);
  EXPECT_EQ(list[0], "");
  EXPECT_EQ(list[1], "a");
  EXPECT_EQ(list[2], "");
  EXPECT_EQ(list[3], std::string_view("\0b", 2));
  EXPECT_EQ(list.back(), "");
  EXPECT_EQ(std::find(list.begin(), list.end(), "a") - list.begin(), 1);
  EXPECT_NE(list, (StringList{"", "a", std::string_view("\0b", 2)}));
  EXPECT_TRUE(StringList().empty());
}

}  // namespace
}  // namespace onggi

#include "base/json_scanner.h"

#include <gtest/gtest.h>

#include <string_view>

namespace onggi {
namespace {

JsonScanner after(std::string_view text) {
  JsonScanner scanner;
  for (const char c : text) scanner.next(c);
  return scanner;
}

TEST(JsonScanner, CountsWhatIsOpen) {
  EXPECT_EQ(after(R"({"a": [1, {)").depth(), 3);
  EXPECT_EQ(after(R"({"a": [1, {}]})").depth(), 0);
  EXPECT_EQ(after("]]").depth(), -2);
  EXPECT_EQ(after("]][").depth(), -1);
}

TEST(JsonScanner, LeavesOutStrings) {
  EXPECT_TRUE(after(R"({"[{\")").in_string());
  EXPECT_EQ(after(R"({"[{\")").depth(), 1);
  EXPECT_FALSE(after(R"("\\")").in_string());
  EXPECT_EQ(after(R"({"a,b": ",,")").members(), 1u);
}

TEST(JsonScanner, CountsMembersOfTheInnermostObject) {
  EXPECT_EQ(after(R"({"a": 1, "b": 2, "c")").members(), 3u);
  EXPECT_EQ(after(R"({"a": 1, "b": {"c": 1)").members(), 1u);
  EXPECT_EQ(after(R"({"a": 1, "b": {"c": 1})").members(), 2u);
  EXPECT_EQ(after(R"({"a": [1, 2, 3)").members(), 0u) << "elements are none";
  EXPECT_EQ(after(R"({"a": [1, 2, 3], "b")").members(), 2u);
  EXPECT_EQ(after("}").members(), 0u);
}

}  // namespace
}  // namespace onggi

#include "serve/fields.h"

#include <gtest/gtest.h>

#include "tests/serve/samples.h"

namespace onggi {
namespace {

TEST(RequestBody, RefusesWhatIsNoObject) {
  for (const std::string body :
       {"", "{", "[1]", "\"x\"", "nul", "{\"a\":1}x", "{\"a\":\"\xff\"}", "{\"a\":1e999}"})
    EXPECT_EQ(refusal_of([&] { parse_request_body(body); }).first, 400) << body;
  EXPECT_EQ(parse_request_body(R"({"a": [1, {"b": 2}]})")["a"][1]["b"], 2);
}

TEST(RequestBody, RefusesDeepNestingBeforeItParses) {
  const std::string deep = "{\"a\":" + std::string(1 << 20, '[');
  EXPECT_EQ(refusal_of([&] { parse_request_body(deep); }).first, 400);
  const std::string brackets_in_text =
      "{\"a\":\"" + std::string(1000, '[') + "\\\"" + std::string(1000, '{') + "\"}";
  EXPECT_EQ(parse_request_body(brackets_in_text)["a"].get<std::string>().size(), 2001u);
}

TEST(RequestBody, RefusesObjectsWithVeryManyMembersBeforeItParses) {
  // A million members, which the library would compare with each other.
  std::string many = "{\"a\": {\"x\": 0";
  for (int i = 0; i < 1'000'000; ++i) many += ",\"" + std::to_string(10'000'000 + i) + "\":0";
  many += "}}";
  EXPECT_EQ(refusal_of([&] { parse_request_body(many); }).first, 400);
  const Json elements(std::vector<int>(1'000'000, 1));
  EXPECT_EQ(parse_request_body(Json({{"a", elements}}).dump())["a"].size(), 1'000'000u);
}

TEST(Fields, NameTheFieldAndTakeNullForAbsent) {
  const Json body = {{"text", 5},       {"count", 1.5}, {"flag", "yes"}, {"list", {"a", 1}},
                     {"none", nullptr}, {"big", 1e300}, {"whole", 42.0}, {"huge", UINT64_MAX}};
  const Fields fields(body, "options");
  using Refusal = std::pair<int, std::string>;
  EXPECT_EQ(refusal_of([&] { fields.string("text"); }), Refusal(400, "options.text"));
  EXPECT_EQ(refusal_of([&] { fields.integer("count"); }), Refusal(400, "options.count"));
  EXPECT_EQ(refusal_of([&] { fields.boolean("flag"); }), Refusal(400, "options.flag"));
  EXPECT_EQ(refusal_of([&] { fields.strings("list"); }), Refusal(400, "options.list"));
  EXPECT_EQ(refusal_of([&] { fields.integer("big"); }), Refusal(400, "options.big"));
  EXPECT_EQ(refusal_of([&] { fields.integer("huge"); }), Refusal(400, "options.huge"));
  EXPECT_EQ(refusal_of([&] { fields.number("count", {0, 1}); }), Refusal(400, "options.count"));
  EXPECT_EQ(refusal_of([&] { fields.require_string("none"); }), Refusal(400, "options.none"));
  EXPECT_EQ(fields.string("none"), std::nullopt);
  EXPECT_EQ(fields.string("absent"), std::nullopt);
  EXPECT_EQ(fields.integer("whole"), 42);
  EXPECT_EQ(fields.number("count"), 1.5);
}

TEST(Dump, NeverThrowsForInvalidUtf8) { EXPECT_EQ(dump(Json("a\xff")), "\"a\xEF\xBF\xBD\""); }

}  // namespace
}  // namespace onggi

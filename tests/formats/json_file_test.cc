#include "formats/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "tests/scratch.h"

namespace onggi {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string error_of(const std::string& bytes) {
  return message_of<InputError>([&] { parse_json(bytes, "c.json"); });
}

TEST(JsonFile, NamesTheFileAndThePlace) {
  EXPECT_THAT(error_of("{\n  \"a\": 1,\n  \"b\": }\n"),
              AllOf(HasSubstr("c.json"), HasSubstr("line 3, column 8")));
  EXPECT_THAT(error_of(""), HasSubstr("line 1, column 1"));
  EXPECT_THAT(error_of("{\"a\": \"\xFF\"}"), HasSubstr("c.json"));
  EXPECT_THAT(error_of("[1e999]"), HasSubstr("c.json"));
}

TEST(JsonFile, BoundsTheDepth) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse_json(nested(kMaxJsonDepth), "c.json"));
  EXPECT_THAT(error_of(nested(kMaxJsonDepth + 1)), HasSubstr("levels deep"));
  EXPECT_THAT(error_of(std::string(10'000'000, '[')), HasSubstr("levels deep"));
  EXPECT_NO_THROW(parse_json("\"" + std::string(1000, '[') + "\\\"[\"", "c.json"))
      << "brackets in strings do not count";
}

TEST(JsonFile, SkipsAByteOrderMark) { EXPECT_EQ(parse_json("\xEF\xBB\xBF{\"a\":1}", "c.json")["a"], 1); }

TEST(JsonFile, GettersNameTheKey) {
  const json document = parse_json(
      R"({"i":3,"u":18446744073709551615,"f":1.5,"b":true,"s":"x","l":["p","q"],"n":null,"o":{"k":1}})",
      "c.json");
  const JsonObject object(document, "c.json");
  EXPECT_EQ(object.get_int("i"), 3);
  EXPECT_EQ(object.get_number("i"), 3.0);
  EXPECT_EQ(object.get_number("f"), 1.5);
  EXPECT_TRUE(object.get_bool("b"));
  EXPECT_EQ(object.get_string("s"), "x");
  EXPECT_THAT(object.get_strings("l"), ElementsAre("p", "q"));
  EXPECT_EQ(object.find_int("n"), std::nullopt);
  EXPECT_EQ(object.find_string("absent"), std::nullopt);
  EXPECT_EQ(object.object("o").get_int("k"), 1);
  const auto error = [&](auto body) { return message_of<InputError>(body); };
  EXPECT_THAT(error([&] { object.get_int("f"); }),
              AllOf(HasSubstr("\"f\" in c.json"), HasSubstr("an integer")));
  EXPECT_THAT(error([&] { object.get_int("u"); }), HasSubstr("64 bits"));
  EXPECT_THAT(error([&] { object.find_bool("i"); }), HasSubstr("true or false"));
  EXPECT_THAT(error([&] { object.get_strings("s"); }), HasSubstr("an array of strings"));
  EXPECT_THAT(error([&] { object.get_int("absent"); }), HasSubstr("lacks the key \"absent\""));
  EXPECT_THAT(error([&] { object.object("i"); }), HasSubstr("an object"));
  EXPECT_THAT(error([&] { object.object("o").get_int("x"); }), HasSubstr("c.json: o"));
  EXPECT_THAT(error([&] { JsonObject(document["l"], "c.json"); }), HasSubstr("must be a JSON object"));
}

TEST(JsonFile, WritesPretty) {
  TemporaryFolder scratch;
  write_json_file(scratch / "a.json", {{"a", 1}, {"b", "옹기"}});
  EXPECT_EQ(read_file(scratch / "a.json"), "{\n  \"a\": 1,\n  \"b\": \"옹기\"\n}\n");
  EXPECT_EQ(read_json_file(scratch / "a.json")["b"], "옹기");
  EXPECT_THROW(read_json_file(scratch / "a.json", 3), InputError);
}

}  // namespace
}  // namespace onggi

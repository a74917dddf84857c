#include "infer/json_constraint.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/random.h"
#include "infer/byte_grammar.h"
#include "infer/json_grammar.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;

const Tokenizer& tokenizer() {
  static const Tokenizer loaded = Tokenizer::load("models/onggi-mini");
  return loaded;
}

// The automaton of a schema without tokens: "" where the whole text is accepted, else what was read of it.
class Reader {
 public:
  explicit Reader(const Json& schema) {
    ByteGrammar grammar;
    JsonRules rules(grammar);
    const auto root = add_schema(grammar, rules, schema);
    automaton_.emplace(std::move(grammar), root);
  }
  bool accepts(const std::string& text) {
    const auto state = automaton_->next(automaton_->start(), text);
    return state != ByteAutomaton::kDead && automaton_->accepting(state);
  }
  bool begins(const std::string& text) {
    return automaton_->next(automaton_->start(), text) != ByteAutomaton::kDead;
  }

 private:
  std::optional<ByteAutomaton> automaton_;
};

TEST(JsonGrammar, AgreesWithAParserOnWholeTexts) {
  Reader any(Json::object());
  const std::vector<std::string> good = {"null",
                                         "true",
                                         "-0",
                                         "0.5e-3",
                                         "12345",
                                         "\"\"",
                                         "\"a\\n\\u00e9\\ud83d\\ude00\"",
                                         "\"안녕 🦜\"",
                                         "[]",
                                         "[ ]",
                                         "[1,2 , [3]]",
                                         "{}",
                                         "{ \"a\": 1 , \"b\":[{}]}",
                                         "[\n  {\n    \"a\": null\n  }\n]",
                                         "\"\\/\"",
                                         "1E5"};
  const std::vector<std::string> bad = {"",
                                        "nul",
                                        "01",
                                        "1.",
                                        ".5",
                                        "+1",
                                        "1e",
                                        "\"",
                                        "\"\n\"",
                                        "\"\\x\"",
                                        "\"\\u12\"",
                                        "\"\\ud83d\"",
                                        "\"\\ude00\"",
                                        "\"\xC0\x80\"",
                                        "\"\xED\xA0\x80\"",
                                        "\"\xF5\x80\x80\x80\"",
                                        "\"\x80\"",
                                        "[1,]",
                                        "[,1]",
                                        "[1 2]",
                                        "{\"a\"}",
                                        "{\"a\":}",
                                        "{a:1}",
                                        "{\"a\":1,}",
                                        "{\"a\":1 \"b\":2}",
                                        "[}",
                                        "]",
                                        "{\"a\":1}}",
                                        "'a'",
                                        "NaN",
                                        "[1]]"};
  for (const std::string& text : good) {
    EXPECT_TRUE(Json::accept(text)) << text;
    EXPECT_TRUE(any.accepts(text)) << text;
  }
  for (const std::string& text : bad) {
    EXPECT_FALSE(Json::accept(text)) << text;
    EXPECT_FALSE(any.accepts(text)) << text;
  }
}

// Walks the automaton at random, biased to ends, so that texts stay short.
TEST(JsonGrammar, WhatItWritesParses) {
  ByteGrammar grammar;
  JsonRules rules(grammar);
  const auto root = rules.object;
  ByteAutomaton automaton(grammar, root);
  Random random(11);
  int long_ones = 0;
  for (int i = 0; i < 300; ++i) {
    std::string text;
    auto state = automaton.start();
    while (!automaton.complete(state)) {
      std::vector<unsigned char> possible;
      for (int b = 0; b < 256; ++b) {
        if (automaton.next(state, static_cast<unsigned char>(b)) != ByteAutomaton::kDead) {
          possible.push_back(static_cast<unsigned char>(b));
        }
      }
      ASSERT_FALSE(possible.empty()) << text;
      unsigned char byte = possible[random.below(static_cast<uint32_t>(possible.size()))];
      for (unsigned char end : {'}', ']', '"'}) {
        if (random.below(text.size() > 200 ? 2 : 6) == 0 &&
            std::find(possible.begin(), possible.end(), end) != possible.end()) {
          byte = end;
        }
      }
      text += static_cast<char>(byte);
      state = automaton.compact(automaton.next(state, byte));
      ASSERT_LT(text.size(), 20000u);
    }
    ASSERT_TRUE(Json::accept(text)) << text;
    long_ones += text.size() > 20;
  }
  EXPECT_GT(long_ones, 50);
}

TEST(JsonGrammar, DeepNestingDoesNotBegin) {
  Reader any(Json::object());
  EXPECT_TRUE(any.begins(std::string(50, '[')));
  EXPECT_FALSE(any.begins(std::string(5000, '[')));
}

TEST(JsonSchema, ObjectsWithRequiredAndOptional) {
  Reader reader(Json::parse(R"({"type": "object", "title": "x",
      "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array",
        "items": {"enum": ["a", "b c", 3]}, "minItems": 1, "maxItems": 2}}, "required": ["name"]})"));
  EXPECT_TRUE(reader.accepts(R"({"name": "김", "age": 3, "tags": ["a", 3]})"));
  EXPECT_TRUE(reader.accepts(R"({"name":"x"})"));
  EXPECT_TRUE(reader.accepts(R"({"name":"x","tags":["b c"]})"));
  for (const char* bad :
       {R"({})", R"({"age":3})", R"({"name":3})", R"({"name":"x","age":3.5})", R"({"name":"x","tags":[]})",
        R"({"name":"x","tags":["a","a","a"]})", R"({"name":"x","tags":["c"]})", R"({"name":"x","more":1})",
        R"({"age":3,"name":"x"})", R"({"name":"x",})", R"({"name":"x" "age":3})", R"([])"}) {
    EXPECT_FALSE(reader.accepts(bad)) << bad;
  }
}

TEST(JsonSchema, AdditionalPropertiesHaveOtherNames) {
  Reader reader(Json::parse(R"({"properties": {"ab": {"type": "integer"}, "abc": {"type": "null"}},
      "additionalProperties": {"type": "string"}})"));
  EXPECT_TRUE(reader.accepts(R"({"ab":1,"abc":null,"x":"y","abcd":"z","a":"","":"q"})"));
  EXPECT_TRUE(reader.accepts(R"({"x":"y"})"));
  EXPECT_FALSE(reader.accepts(R"({"ab":"text"})"));
  EXPECT_FALSE(reader.accepts(R"({"x":"y","abc":"text"})"));
  EXPECT_FALSE(reader.accepts(R"({"x":1})"));
  Reader map(Json::parse(R"({"type": "object", "additionalProperties": {"type": "integer"}})"));
  EXPECT_TRUE(map.accepts(R"({"a":1,"한글":2})"));
  EXPECT_FALSE(map.accepts(R"({"a":"1"})"));
}

TEST(JsonSchema, ReferencesChoicesAndCounts) {
  Reader tree(Json::parse(R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
      "properties": {"value": {"type": ["integer", "null"]}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"const": "end"}]}},
      "required": ["value", "next"], "additionalProperties": false}}})"));
  EXPECT_TRUE(tree.accepts(R"({"value":1,"next":{"value":null,"next":"end"}})"));
  EXPECT_FALSE(tree.accepts(R"({"value":1,"next":{"value":null}})"));
  EXPECT_FALSE(tree.accepts(R"({"value":true,"next":"end"})"));
  Reader code(Json::parse(R"({"type": "string", "minLength": 2, "maxLength": 3})"));
  EXPECT_FALSE(code.accepts("\"a\""));
  EXPECT_TRUE(code.accepts("\"한국\""));
  EXPECT_TRUE(code.accepts("\"ab\\n\""));
  EXPECT_FALSE(code.accepts("\"abcd\""));
  Reader list(Json::parse(R"({"type": "array", "minItems": 3, "items": {"type": "boolean"}})"));
  EXPECT_FALSE(list.accepts("[true,false]"));
  EXPECT_TRUE(list.accepts("[true,false,true,true]"));
  Reader constant(Json::parse(R"({"const": {"a": ["\"q\"", 1.5]}})"));
  EXPECT_TRUE(constant.accepts(R"({"a":["\"q\"",1.5]})"));
  EXPECT_FALSE(constant.accepts(R"({"a":["\"q\"",1.50]})"));
}

TEST(JsonSchema, SchemasThatOnlyReferToThemselvesEnd) {
  const Reader loop(Json::parse(
      R"({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}})"));
  Reader copy(loop);
  EXPECT_TRUE(copy.accepts("null"));
}

TEST(JsonSchema, RefusesByName) {
  const auto message = [](const char* schema) -> std::string {
    try {
      make_schema_constraint(tokenizer(), Json::parse(schema));
    } catch (const InputError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message(R"({"type": "object", "properties": {"a": {"pattern": "x"}}})")
                .find("pattern at /properties/a"),
            std::string::npos);
  EXPECT_NE(message(R"({"not": {}})").find("not at #"), std::string::npos);
  for (const char* schema :
       {R"(false)", R"(3)", R"({"type": "text"})", R"({"type": 3})", R"({"type": []})", R"({"enum": []})",
        R"({"enum": 1})", R"({"anyOf": {}})", R"({"$ref": "#/nowhere"})", R"({"$ref": "other.json"})",
        R"({"$ref": "#bad/pointer~"})", R"({"minItems": -1})", R"({"type":"array","maxItems": 1000000})",
        R"({"type":"array","minItems":3,"maxItems":2})", R"({"properties": []})", R"({"required": [1]})",
        R"({"minimum": 1, "type": "integer"})", R"({"anyOf": [{"type":"null"}], "properties": {}})"}) {
    EXPECT_NE(message(schema), "") << schema;
  }
  std::string deep = "{}";
  for (int i = 0; i < 70; ++i) deep = R"({"items":)" + deep + "}";
  EXPECT_NE(message(deep.c_str()), "");
}

// Sizes that a request of the largest allowed size can hold: neither the stack nor the memory may give way.
TEST(JsonSchema, LongNamesAreFollowed) {
  const std::string name(60'000, 'a');
  Reader reader(
      Json({{"properties", {{name, {{"type", "null"}}}}}, {"additionalProperties", {{"type", "integer"}}}}));
  EXPECT_TRUE(reader.accepts(R"({"aab":1})"));
  EXPECT_TRUE(reader.begins(R"({"aaa)"));
  EXPECT_FALSE(reader.begins(R"({"aab":n)"));
}

TEST(JsonSchema, ManyOptionalPropertiesAreFollowed) {
  Json properties = Json::object();
  for (int i = 0; i < 5000; ++i)
    properties.get_ref<Json::object_t&>().push_back({"p" + std::to_string(i), true});
  Reader reader(Json({{"properties", properties}}));
  EXPECT_TRUE(reader.accepts(R"({"p4999":1})"));
  EXPECT_TRUE(reader.accepts(R"({})"));
  EXPECT_FALSE(reader.begins(R"({"q)"));
}

TEST(JsonSchema, LargeSchemasAreRefused) {
  const auto refused = [](const Json& schema) {
    EXPECT_THROW(make_schema_constraint(tokenizer(), schema), InputError);
  };
  refused({{"const", std::string(16 << 20, 'a')}});
  refused({{"properties", {{std::string(1'000'000, 'a'), true}}}, {"additionalProperties", true}});
  refused({{"required", std::vector<std::string>(1, std::string(2'000'000, 'a'))}});
  Json names = Json::array(), numbers = Json::array();
  for (int i = 0; i < 200'000; ++i) {
    names.push_back("p" + std::to_string(i));
    numbers.push_back(i % 10);
  }
  refused({{"required", names}});
  refused({{"enum", numbers}});  // that many places to follow at once
}

// Feeds the tokens of a text; false as soon as one is not allowed.
bool takes(TokenConstraint& constraint, const std::string& text) {
  for (int32_t id : tokenizer().encode(text, ParseSpecial::kNo)) {
    if (!constraint.allows(id)) return false;
    constraint.accept(id);
  }
  return true;
}

TEST(JsonConstraint, FollowsTokens) {
  constexpr int32_t kEos = 8102;
  auto object = make_json_constraint(tokenizer());
  EXPECT_FALSE(object->allows(kEos));
  EXPECT_FALSE(make_json_constraint(tokenizer())->allows(tokenizer().encode("Hello")[0]));
  EXPECT_FALSE(takes(*make_json_constraint(tokenizer()), "[1]")) << "an object was asked for";
  ASSERT_TRUE(takes(*object, "\n{\"답\": [1, 2.5, \"둘\"], \"git\": {}"));
  EXPECT_FALSE(object->finished());
  EXPECT_FALSE(object->allows(kEos));
  ASSERT_TRUE(takes(*object, "}"));
  EXPECT_TRUE(object->finished());
  EXPECT_FALSE(object->allows(tokenizer().encode(" ")[0]));

  // A number can go on or end: only eos tells.
  auto number = make_schema_constraint(tokenizer(), Json::parse(R"({"type": "integer"})"));
  ASSERT_TRUE(takes(*number, "12"));
  EXPECT_FALSE(number->finished());
  EXPECT_TRUE(number->allows(kEos));
  number->accept(kEos);
  EXPECT_TRUE(number->finished());
}

TEST(JsonConstraint, BeginsAfterTheReasoning) {
  JsonConstraintOptions options;
  options.begins_after = "</think>";
  auto constraint = make_json_constraint(tokenizer(), options);
  ASSERT_TRUE(takes(*constraint, "Let me think { } </thi"));
  EXPECT_FALSE(constraint->allows(8102));
  ASSERT_TRUE(takes(*constraint, "nk and </think>\n\n"));
  EXPECT_FALSE(constraint->allows(tokenizer().encode("Text")[0]));
  EXPECT_TRUE(takes(*constraint, "{\"a\":1}"));
  EXPECT_TRUE(constraint->finished());
}

TEST(JsonConstraint, PaddingIdsAreNotAllowed) {
  auto constraint = make_json_constraint(tokenizer());
  EXPECT_FALSE(constraint->allows(8191));
}

}  // namespace
}  // namespace onggi

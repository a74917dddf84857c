#include "serve/answer_parser.h"

#include <gtest/gtest.h>

#include "tests/serve/samples.h"

namespace onggi {
namespace {

using Options = AnswerParserOptions;

// The whole answer, from pieces of so many bytes.
AnswerPiece parse(const std::string& text, Options options, size_t piece) {
  AnswerParser parser(options);
  AnswerPiece all;
  const auto add = [&](AnswerPiece part) {
    all.reasoning += part.reasoning;
    all.content += part.content;
    for (ToolCall& call : part.tool_calls) all.tool_calls.push_back(std::move(call));
  };
  for (size_t i = 0; i < text.size(); i += piece) add(parser.push(std::string_view(text).substr(i, piece)));
  add(parser.finish());
  return all;
}

struct Case {
  std::string text;
  Options options;
  std::string reasoning, content;
  size_t calls = 0;
};

const Options kPlain{};
const Options kOpen{Options::Start::kReasoning, Options::Calls::kKeep};
const Options kCalls{Options::Start::kContent, Options::Calls::kParse};

// The result must not depend on how the text is cut.
TEST(AnswerParser, SplitsWhereverTheTextIsCut) {
  const std::string call =
      "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"서울\"}}\n</tool_call>";
  const std::vector<Case> cases = {
      {"안녕하세요", kPlain, "", "안녕하세요"},
      {"<think>\n생각 중\n</think>\n\n답", kPlain, "생각 중", "답"},
      {"<think>\n\n</think>\n\n답", kPlain, "", "답"},
      {"\n<think>a</think>b<think>c</think>", kPlain, "a", "b<think>c</think>"},
      {"<thin", kPlain, "", "<thin"},
      {"  <b>", kPlain, "", "  <b>"},
      {"a < b </think> c", kPlain, "", "a < b </think> c"},
      {"반쯤 생각", kOpen, "반쯤 생각", ""},
      {"x </thi y</think> z ", kOpen, "x </thi y", "z "},
      {"<think>never closed", kPlain, "never closed", ""},
      {call, kPlain, "", call},
      {call, kCalls, "", "", 1},
      {"볼게요.\n" + call + "\n" + call, kCalls, "", "볼게요.", 2},
      {"<think>hm</think>\n\n" + call + "\nDone", kCalls, "hm", "Done", 1},
      {"<tool_call>not json</tool_call> x", kCalls, "", "<tool_call>not json</tool_call> x"},
      {"<tool_call>{\"name\": \"f\"", kCalls, "", "<tool_call>{\"name\": \"f\""},
      {"<tool_call>{\"name\": \"f\"}", kCalls, "", "", 1},
      {"text \n", kCalls, "", "text \n"},
      {"a <tool_", kCalls, "", "a <tool_"},
  };
  for (const Case& c : cases) {
    for (const size_t piece : {size_t{1}, size_t{2}, size_t{3}, size_t{5}, size_t{7}, size_t{1000}}) {
      const AnswerPiece got = parse(c.text, c.options, piece);
      EXPECT_EQ(got.reasoning, c.reasoning) << c.text << " in pieces of " << piece;
      EXPECT_EQ(got.content, c.content) << c.text << " in pieces of " << piece;
      EXPECT_EQ(got.tool_calls.size(), c.calls) << c.text << " in pieces of " << piece;
    }
  }
}

TEST(AnswerParser, ReleasesTextAsSoonAsItIsKnown) {
  AnswerParser parser(kCalls);
  EXPECT_EQ(parser.push("Hello wor").content, "Hello wor");
  EXPECT_EQ(parser.push("ld <").content, "ld");
  EXPECT_EQ(parser.push("b").content, " <b");
}

TEST(ToolCall, ReadsArgumentsAsObjectOrText) {
  EXPECT_EQ(parse_tool_call(R"({"name": "f", "arguments": {"a": 1}})").at(0).arguments, Json({{"a", 1}}));
  EXPECT_EQ(parse_tool_call(R"({"name": "f", "arguments": "{\"a\": 1}"})").at(0).arguments, Json({{"a", 1}}));
  for (const char* bad : {"", "[]", "{}", R"({"name": 1})", R"({"name": "f", "arguments": [1]})",
                          R"({"name": "f", "arguments": "x"})"})
    EXPECT_TRUE(parse_tool_call(bad).empty()) << bad;
  EXPECT_TRUE(parse_tool_call(R"({"name": "f"})").at(0).id.starts_with("call_"));
  // Copying it would take as many frames of the stack.
  const std::string deep = R"({"a": )" + std::string(200'000, '[') + std::string(200'000, ']') + "}";
  EXPECT_TRUE(parse_tool_call(R"({"name": "f", "arguments": )" + deep + "}").empty());
  EXPECT_TRUE(parse_tool_call(Json({{"name", "f"}, {"arguments", deep}}).dump()).empty());
}

}  // namespace
}  // namespace onggi

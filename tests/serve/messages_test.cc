#include "serve/messages.h"

#include <gtest/gtest.h>

#include "tests/serve/samples.h"

namespace onggi {
namespace {

TEST(Messages, ConvertTheShapesOfBothDialects) {
  const Json given = Json::parse(R"([
    {"role": "developer", "content": "Be brief."},
    {"role": "User", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": null, "reasoning_content": "hm",
     "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
    {"role": "assistant", "content": "", "thinking": "ha",
     "tool_calls": [{"function": {"name": "g", "arguments": {"y": 2}}}]},
    {"role": "tool", "content": "42", "tool_call_id": "c1"}])");
  const Json expected = Json::parse(R"([
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "ab"},
    {"role": "assistant", "content": "", "reasoning_content": "hm",
     "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}, "id": "c1"}]},
    {"role": "assistant", "content": "", "reasoning_content": "ha",
     "tool_calls": [{"type": "function", "function": {"name": "g", "arguments": {"y": 2}}}]},
    {"role": "tool", "content": "42", "tool_call_id": "c1"}])");
  EXPECT_EQ(to_template_messages(given, "messages"), expected);
}

TEST(Messages, RefuseWhatTheModelCannotRead) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"([5])", "messages[0]"},
      {R"([{"content": "x"}])", "messages[0].role"},
      {R"([{"role": "robot", "content": "x"}])", "messages[0].role"},
      {R"([{"role": "user", "content": 5}])", "messages[0].content"},
      {R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])",
       "messages[0].content[0].type"},
      {R"([{"role": "user", "content": "x", "images": ["aGk="]}])", "messages[0].images"},
      {R"([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{}]}])",
       "messages[1].tool_calls[0].function"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}])",
       "messages[0].tool_calls[0].function.arguments"},
  };
  for (const auto& [body, field] : cases)
    EXPECT_EQ(refusal_of([&, body = body] { to_template_messages(Json::parse(body), "messages"); }),
              std::pair(400, field))
        << body;
  for (const char* tools : {R"([{}])", R"([{"type": "retrieval"}])", R"([{"function": {}}])"})
    EXPECT_EQ(refusal_of([&] { to_template_tools(Json::parse(tools), "tools"); }).first, 400) << tools;
}

}  // namespace
}  // namespace onggi

#include "data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace onggi {
namespace {

using Json = nlohmann::ordered_json;
using testing::ElementsAre;
using testing::HasSubstr;

Dataset jsonl(const std::string& bytes, const DatasetOptions& options = {}) {
  return parse_dataset(bytes, DataFormat::kJsonLines, "test.jsonl", options);
}

std::string error_of(const std::string& bytes, DataFormat format) {
  try {
    parse_dataset(bytes, format, "test");
    return "no error";
  } catch (const InputError& error) {
    return error.what();
  }
}

std::vector<std::string> turns(const DataRow& row) {
  std::vector<std::string> result;
  for (const auto& message : Json::parse(row.messages_json)) {
    result.push_back(message["role"].get<std::string>() + ":" + message["content"].get<std::string>());
  }
  return result;
}

TEST(Dataset, ReadsQuestionsAndAnswers) {
  const Dataset data = jsonl(
      "{\"question\": \"무엇?\", \"answer\": \"이것\", \"style\": \"짧게\", \"domain\": \"git\"}\r\n"
      "\n"
      "{\"question\": \"q2\", \"answer\": \"a2\", \"system\": \"s\"}");
  EXPECT_EQ(data.layout, DataLayout::kQuestionAnswer);
  EXPECT_EQ(data.think, ThinkMode::kEmpty);
  EXPECT_EQ(data.sha256.size(), 64u);
  ASSERT_EQ(data.rows.size(), 2u);
  EXPECT_THAT(data.dropped, testing::IsEmpty());
  EXPECT_EQ(data.rows[0].line, 1u);
  EXPECT_EQ(data.rows[0].style, "짧게");
  EXPECT_EQ(data.rows[0].domain, "git");
  EXPECT_EQ(data.rows[0].question, "무엇?");
  EXPECT_EQ(data.rows[0].answer, "이것");
  EXPECT_THAT(turns(data.rows[0]), ElementsAre("user:무엇?", "assistant:이것"));
  EXPECT_EQ(data.rows[1].line, 3u);
  EXPECT_THAT(turns(data.rows[1]), ElementsAre("system:s", "user:q2", "assistant:a2"));
}

TEST(Dataset, ReadsInstructions) {
  const Dataset data =
      jsonl(R"({"instruction": "Translate", "input": "안녕", "output": "hello", "history": [["h", "i"]]})"
            "\n"
            R"({"instruction": "Say hi", "input": "", "output": "hi"})");
  EXPECT_EQ(data.layout, DataLayout::kInstruction);
  EXPECT_THAT(turns(data.rows[0]),
              ElementsAre("user:h", "assistant:i", "user:Translate\n안녕", "assistant:hello"));
  EXPECT_THAT(turns(data.rows[1]), ElementsAre("user:Say hi", "assistant:hi"));
}

TEST(Dataset, ReadsMessages) {
  const Dataset data = jsonl(
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, )"
      R"({"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}, )"
      R"({"role": "tool", "content": "1"}, {"role": "assistant", "content": "one"}], "tools": [{"name": "f"}]})");
  EXPECT_EQ(data.layout, DataLayout::kMessages);
  EXPECT_THAT(turns(data.rows[0]), ElementsAre("user:ab", "assistant:", "tool:1", "assistant:one"));
  EXPECT_EQ(data.rows[0].tools_json, R"([{"name":"f"}])");
  EXPECT_EQ(data.rows[0].answer, "one");
}

TEST(Dataset, ReadsShareGpt) {
  const Dataset data = jsonl(
      R"({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]})"
      "\n"
      R"({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"x\": 1}}"}, {"from": "observation", "value": "1"}, {"from": "gpt", "value": "a"}], "tools": "[{\"name\": \"f\"}]"})");
  EXPECT_EQ(data.layout, DataLayout::kConversations);
  EXPECT_THAT(turns(data.rows[0]), ElementsAre("system:s", "user:q", "assistant:a"));
  EXPECT_THAT(turns(data.rows[1]), ElementsAre("user:q", "assistant:", "tool:1", "assistant:a"));
  EXPECT_EQ(Json::parse(data.rows[1].messages_json)[1]["tool_calls"][0]["function"]["name"], "f");
}

TEST(Dataset, ReadsJsonArraysWithLines) {
  const Dataset data = parse_dataset(
      "\xEF\xBB\xBF[\n"
      "  {\"question\": \"q[1],\\\"}\", \"answer\": \"a\"},\n"
      "  {\"question\": \"broken\" \"answer\": 1},\n\n"
      "  {\"question\":\n    \"q3\", \"answer\": \"a3\"}\n]\n",
      DataFormat::kJsonArray, "test.json");
  ASSERT_EQ(data.rows.size(), 2u);
  EXPECT_EQ(data.rows[0].question, "q[1],\"}");
  EXPECT_EQ(data.rows[0].line, 2u);
  EXPECT_EQ(data.rows[1].line, 5u);
  ASSERT_EQ(data.dropped.size(), 1u);
  EXPECT_EQ(data.dropped[0].line, 3u);
}

TEST(Dataset, ReadsCsv) {
  const Dataset data = parse_dataset(
      "question,answer,style\r\n"
      "\"첫째, \"\"인용\"\"\",\"두 줄\n답\",\r\n"
      "q2,a2,s2\n"
      "too,few\n"
      "q,\"a\"x,s\n"
      "q5,,s\n"
      "q6,a6,s6",
      DataFormat::kCsv, "test.csv");
  EXPECT_EQ(data.layout, DataLayout::kQuestionAnswer);
  ASSERT_EQ(data.rows.size(), 3u);
  EXPECT_EQ(data.rows[0].question, "첫째, \"인용\"");
  EXPECT_EQ(data.rows[0].answer, "두 줄\n답");
  EXPECT_EQ(data.rows[0].style, "");
  EXPECT_EQ(data.rows[1].line, 4u) << "the first row has two lines";
  EXPECT_EQ(data.rows[2].answer, "a6");
  ASSERT_EQ(data.dropped.size(), 3u);
  EXPECT_EQ(data.dropped[0].line, 5u);
  EXPECT_THAT(data.dropped[0].reason, HasSubstr("2 fields"));
  EXPECT_THAT(data.dropped[1].reason, HasSubstr("closing quote"));
  EXPECT_THAT(data.dropped[2].reason, HasSubstr("answer"));
}

TEST(Dataset, DropsBadRowsWithLineAndReason) {
  const std::string deep = "{\"question\": " + std::string(100000, '[') + "}";
  const std::vector<std::pair<std::string, const char*>> bad = {
      {"{\"question\": \"q\", \"answer\": \"\xFF\"}", "UTF-8"},
      {"{\"question\": \"q\"", "JSON"},
      {"[1]", "not a JSON object"},
      {"{\"question\": \"q\"}", "\"answer\" is missing"},
      {"{\"question\": \"q\", \"answer\": null}", "\"answer\" is missing"},
      {"{\"question\": \"q\", \"answer\": 3}", "a number, not a text"},
      {"{\"question\": \"q\", \"answer\": [\"a\"]}", "a list, not a text"},
      {"{\"question\": \"q\", \"answer\": \" \\n\"}", "\"answer\" is empty"},
      {"{\"question\": \"\", \"answer\": \"a\"}", "\"question\" is empty"},
      {"{\"question\": \"q\", \"answer\": \"a\", \"style\": 1}", "\"style\" is a number"},
      {"{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}", "\"question\" is missing"},
      {deep, "nested"},
  };
  std::string bytes = "{\"question\": \"q\", \"answer\": \"a\"}\n";
  for (const auto& [row, reason] : bad) bytes += row + "\n";
  const Dataset data = jsonl(bytes);
  EXPECT_EQ(data.rows.size(), 1u);
  ASSERT_EQ(data.dropped.size(), bad.size());
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_EQ(data.dropped[i].line, i + 2);
    EXPECT_THAT(data.dropped[i].reason, HasSubstr(bad[i].second)) << bad[i].first.substr(0, 60);
  }
}

TEST(Dataset, DropsBadConversations) {
  const std::string good =
      R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})";
  const std::vector<std::pair<std::string, const char*>> bad = {
      {R"({"messages": []})", "empty"},
      {R"({"messages": {"role": "user"}})", "an object, not a list"},
      {R"({"messages": ["q"]})", "a message is a text"},
      {R"({"messages": [{"content": "q"}]})", "\"role\" is missing"},
      {R"({"messages": [{"role": "bot", "content": "q"}]})", "\"bot\""},
      {R"({"messages": [{"role": "user", "content": "q"}]})", "no assistant turn"},
      {R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]})",
       "an answer is empty"},
      {R"({"messages": [{"role": "user", "content": 5}]})", "a number, not a text"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image"}]}]})", "not a text"},
      {R"({"messages": [{"role": "assistant", "content": "a"}]})", "no prompt"},
      {R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "tools": {}})",
       "tools"},
  };
  std::string bytes = good + "\n";
  for (const auto& [row, reason] : bad) bytes += row + "\n";
  const Dataset data = jsonl(bytes);
  EXPECT_EQ(data.rows.size(), 1u);
  ASSERT_EQ(data.dropped.size(), bad.size());
  for (size_t i = 0; i < bad.size(); ++i) {
    EXPECT_THAT(data.dropped[i].reason, HasSubstr(bad[i].second)) << bad[i].first;
  }
}

TEST(Dataset, DetectsTheThinkMode) {
  const std::string plain = R"({"question": "q", "answer": "a"})";
  const std::string empty = R"({"question": "q", "answer": "<think>\n\n</think>\n\na"})";
  const std::string thinks = R"({"question": "q", "answer": "<think>\nhm\n</think>\n\na"})";
  EXPECT_EQ(jsonl(plain + "\n" + empty).think, ThinkMode::kEmpty);
  EXPECT_EQ(jsonl(plain + "\n" + empty).rows[1].answer, "a") << "templates write the empty block themselves";
  EXPECT_EQ(jsonl(thinks).think, ThinkMode::kKept);
  EXPECT_EQ(jsonl(thinks + "\n" + plain).think, ThinkMode::kMixed);
  EXPECT_EQ(jsonl(thinks).rows[0].answer, "<think>\nhm\n</think>\n\na");
  DatasetOptions options;
  options.think = ThinkMode::kEmpty;
  EXPECT_EQ(jsonl(thinks, options).rows[0].answer, "a");
  EXPECT_FALSE(jsonl(thinks, options).rows[0].reasons);
  const std::string nothing_else = R"({"question": "q", "answer": "<think>\nhm\n</think>"})";
  const Dataset data = jsonl(thinks + "\n" + nothing_else, options);
  EXPECT_EQ(data.rows.size(), 1u);
  EXPECT_EQ(data.dropped.size(), 1u);
}

TEST(Dataset, AddsASystemPrompt) {
  DatasetOptions options;
  options.system_prompt = "친절하게";
  const Dataset data = jsonl(
      "{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"q\", \"answer\": \"a\", \"system\": "
      "\"own\"}",
      options);
  EXPECT_THAT(turns(data.rows[0]), ElementsAre("system:친절하게", "user:q", "assistant:a"));
  EXPECT_THAT(turns(data.rows[1]), ElementsAre("system:own", "user:q", "assistant:a"));
}

TEST(Dataset, RefusesFilesItCannotRead) {
  EXPECT_THAT(error_of("", DataFormat::kJsonLines), HasSubstr("no rows"));
  EXPECT_THAT(error_of("[]", DataFormat::kJsonArray), HasSubstr("no rows"));
  EXPECT_THAT(error_of("{\"a\": 1, \"b\": 2}", DataFormat::kJsonLines), HasSubstr("a, b"));
  EXPECT_THAT(error_of("{\"question\": 1, \"answer\": 2}", DataFormat::kJsonLines), HasSubstr("line 1"));
  EXPECT_THAT(error_of("nonsense", DataFormat::kJsonLines), HasSubstr("line 1"));
  EXPECT_THAT(error_of("{}", DataFormat::kJsonArray), HasSubstr("array"));
  EXPECT_THAT(error_of("[{\"question\": \"q", DataFormat::kJsonArray), HasSubstr("ends inside"));
  EXPECT_THAT(error_of("", DataFormat::kCsv), HasSubstr("header"));
  EXPECT_THAT(error_of("question,answer\n", DataFormat::kCsv), HasSubstr("no rows"));
  EXPECT_THAT(error_of("\"question,answer", DataFormat::kCsv), HasSubstr("header"));
  EXPECT_THROW(load_dataset("data/no_such_file.jsonl"), InputError);
  EXPECT_THROW(load_dataset("README.md"), InputError);
}

}  // namespace
}  // namespace onggi

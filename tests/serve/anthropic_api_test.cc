#include "serve/anthropic_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/serve/mini_service.h"
#include "tests/serve/samples.h"

namespace onggi {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Json request(const std::string& extra,
             const std::string& messages = R"([{"role": "user", "content": "hi"}])") {
  return Json::parse(R"({"model": "qwen3-finetune-8b", "max_tokens": 50, "messages": )" + messages + extra +
                     "}");
}
Query parse(const std::string& extra) { return parse_anthropic_messages(request(extra), sample_model()); }
const Conversation& conversation(const Query& query) { return std::get<Conversation>(query.prompt); }

TEST(AnthropicRequest, ReadsAllFields) {
  const Query query = parse(
      R"(, "system": [{"type": "text", "text": "be "}, {"type": "text", "text": "short"}], "temperature": 0.5,
         "top_p": 0.9, "top_k": 7, "stop_sequences": ["END"], "stream": true, "thinking": {"type": "enabled",
         "budget_tokens": 1024}, "metadata": {"user_id": "u"},
         "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
         "tool_choice": {"type": "auto", "disable_parallel_tool_use": true})");
  EXPECT_EQ(query.max_new_tokens, 50);
  EXPECT_EQ(query.sampling.temperature, 0.5);
  EXPECT_EQ(query.sampling.top_p, 0.9);
  EXPECT_EQ(query.sampling.top_k, 7);
  EXPECT_THAT(query.stop, ElementsAre("END"));
  EXPECT_EQ(query.delivery, Delivery::kStreamed);
  EXPECT_EQ(query.max_tool_calls, 1);
  EXPECT_EQ(conversation(query).enable_thinking, true);
  EXPECT_EQ(conversation(query).messages,
            Json::parse(R"([{"role": "system", "content": "be short"}, {"role": "user", "content": "hi"}])"));
  EXPECT_EQ(conversation(query).tools,
            Json::parse(R"([{"type": "function", "function": {"name": "f", "description": "d",
                             "parameters": {"type": "object"}}}])"));
}

TEST(AnthropicRequest, BlocksBecomeTheMessagesOfTemplates) {
  const Query query = parse_anthropic_messages(request("", R"([
    {"role": "user", "content": [{"type": "text", "text": "weather?"}]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""},
      {"type": "text", "text": "I look."}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
      {"type": "tool_use", "id": "t2", "name": "g", "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "21"},
      {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "rain"}], "is_error": false},
      {"type": "text", "text": "and?"}]}])"),
                                               sample_model());
  EXPECT_EQ(conversation(query).messages, Json::parse(R"([
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [
      {"type": "function", "id": "t1", "function": {"name": "f", "arguments": {"a": 1}}},
      {"type": "function", "id": "t2", "function": {"name": "g", "arguments": {}}}]},
    {"role": "tool", "content": "21", "tool_call_id": "t1"},
    {"role": "tool", "content": "rain", "tool_call_id": "t2"},
    {"role": "user", "content": "and?"}])"));
}

TEST(AnthropicRequest, TheAnswersBeginningIsTakenOver) {
  const Query query = parse_anthropic_messages(
      request("", R"([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hel"}])"),
      sample_model());
  EXPECT_EQ(conversation(query).prefill, "Hel");
  EXPECT_EQ(conversation(query).messages.size(), 1u);
}

TEST(AnthropicRequest, ChoicesOfTools) {
  const std::string tools =
      R"(, "tools": [{"name": "f", "input_schema": {}}, {"name": "g", "input_schema": {}}])";
  EXPECT_EQ(conversation(parse(tools + R"(, "tool_choice": {"type": "any"})")).forced_start,
            "<tool_call>\n{\"name\": \"");
  EXPECT_EQ(conversation(parse(tools + R"(, "tool_choice": {"type": "tool", "name": "g"})")).forced_start,
            "<tool_call>\n{\"name\": \"g\", \"arguments\": ");
  EXPECT_TRUE(conversation(parse(tools + R"(, "tool_choice": {"type": "none"})")).tools.is_null());
}

TEST(AnthropicRequest, RefusesByNamingTheField) {
  const auto refused = [](const Json& body) {
    return refusal_of([&] { parse_anthropic_messages(body, sample_model()); });
  };
  using Refusal = std::pair<int, std::string>;
  Json no_limit = request("");
  no_limit.erase("max_tokens");
  EXPECT_EQ(refused(no_limit), Refusal(400, "max_tokens"));
  EXPECT_EQ(refusal_of([&] { parse_anthropic_count(no_limit, sample_model()); }), Refusal(200, ""));
  const std::vector<std::pair<std::string, std::string>> extras = {
      {R"(, "system": 5)", "system"},
      {R"(, "system": [{"type": "image"}])", "system[0].type"},
      {R"(, "stop_sequences": [""])", "stop_sequences"},
      {R"(, "tools": [{"name": "f"}])", "tools[0].input_schema"},
      {R"(, "tools": [{"type": "web_search_20250305", "name": "w"}])", "tools[0].type"},
      {R"(, "tool_choice": {"type": "any"})", "tool_choice"},
      {R"(, "tool_choice": {"type": "must"})", "tool_choice.type"},
      {R"(, "thinking": {"type": "deep"})", "thinking"},
      {R"(, "temperature": "warm")", "temperature"}};
  for (const auto& [extra, field] : extras) EXPECT_EQ(refused(request(extra)), Refusal(400, field)) << extra;
  const std::vector<std::pair<std::string, std::string>> messages = {
      {"[]", "messages"},
      {R"([{"role": "system", "content": "x"}])", "messages[0].role"},
      {R"([{"role": "user"}])", "messages[0].content"},
      {R"([{"role": "user", "content": 4}])", "messages[0].content"},
      {R"([{"role": "user", "content": [{"type": "image", "source": {}}]}])", "messages[0].content[0].type"},
      {R"([{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}])",
       "messages[0].content[0].type"},
      {R"([{"role": "user", "content": [{"type": "tool_result", "content": "x"}]}])",
       "messages[0].content[0].tool_use_id"},
      {R"([{"role": "assistant", "content": "alone"}])", "messages"}};
  for (const auto& [list, field] : messages)
    EXPECT_EQ(refused(request("", list)), Refusal(400, field)) << list;
  Json other = request("");
  other["model"] = "claude-opus-4";
  EXPECT_EQ(refused(other), Refusal(404, "model"));
}

ToolCall sample_call() { return {"call_1", "f", Json::parse(R"({"a": [1]})")}; }

TEST(AnthropicAnswer, Whole) {
  Answer answer;
  answer.reasoning = "hm";
  answer.content = "hello";
  answer.tool_calls = {sample_call()};
  const Json value = anthropic_formatter(sample_head(), 7)->whole({answer}, {sample_result()});
  EXPECT_EQ(value,
            Json::parse(R"({"id": "id-1", "type": "message", "role": "assistant", "model": "m", "content": [
    {"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "hello"},
    {"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": [1]}}],
    "stop_reason": "tool_use", "stop_sequence": null, "usage": {"input_tokens": 5, "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 2, "output_tokens": 3}})"));
  GenerationResult stopped = sample_result();
  stopped.stop_string = "END";
  const Json end = anthropic_formatter(sample_head(), 7)->whole({Answer{}}, {stopped});
  EXPECT_EQ(end["stop_reason"], "stop_sequence");
  EXPECT_EQ(end["stop_sequence"], "END");
  stopped.reason = FinishReason::kLength;
  EXPECT_EQ(anthropic_formatter(sample_head(), 7)->whole({Answer{}}, {stopped})["stop_reason"], "max_tokens");
}

TEST(AnthropicAnswer, StreamsBlocksInOrder) {
  const auto formatter = anthropic_formatter(sample_head(), 7);
  AnswerEvent thinks;
  thinks.piece.reasoning = "hm";
  AnswerEvent calls;
  calls.piece.tool_calls = {sample_call()};
  std::string body = formatter->begin();
  for (const AnswerEvent& event : {thinks, text_event("he"), text_event("llo"), calls})
    body += formatter->piece(event);
  body += formatter->end({sample_result()});
  std::vector<std::string> names;
  std::istringstream lines(body);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("event: ")) names.push_back(line.substr(7));
  const auto events = events_of(body);
  ASSERT_EQ(events.size(), names.size());
  std::string shape;
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i]["type"], names[i]);
    shape += names[i] + (events[i].contains("index") ? " " + events[i]["index"].dump() : "") +
             (events[i].contains("delta") && events[i]["delta"].contains("type")
                  ? " " + events[i]["delta"]["type"].get<std::string>()
                  : "") +
             "\n";
  }
  EXPECT_EQ(shape,
            "message_start\nping\n"
            "content_block_start 0\ncontent_block_delta 0 thinking_delta\n"
            "content_block_delta 0 signature_delta\ncontent_block_stop 0\n"
            "content_block_start 1\ncontent_block_delta 1 text_delta\ncontent_block_delta 1 text_delta\n"
            "content_block_stop 1\n"
            "content_block_start 2\ncontent_block_delta 2 input_json_delta\ncontent_block_stop 2\n"
            "message_delta\nmessage_stop\n");
  EXPECT_EQ(events[0]["message"]["usage"]["input_tokens"], 7);
  EXPECT_EQ(events[10]["content_block"],
            Json::parse(R"({"type": "tool_use", "id": "call_1", "name": "f", "input": {}})"));
  EXPECT_EQ(events[11]["delta"]["partial_json"], R"({"a":[1]})");
  EXPECT_EQ(events[13]["delta"]["stop_reason"], "tool_use");
  EXPECT_EQ(events[13]["usage"]["output_tokens"], 3);
}

TEST(AnthropicAnswer, ErrorsHaveTheDialectsTypes) {
  EXPECT_EQ(anthropic_error(400, "m"),
            R"({"type":"error","error":{"type":"invalid_request_error","message":"m"}})");
  for (const auto& [status, type] : std::vector<std::pair<int, std::string>>{{401, "authentication_error"},
                                                                             {404, "not_found_error"},
                                                                             {413, "request_too_large"},
                                                                             {429, "rate_limit_error"},
                                                                             {503, "overloaded_error"},
                                                                             {500, "api_error"}})
    EXPECT_THAT(anthropic_error(status, "m"), HasSubstr(type));
}

// Over HTTP, with the embedded model.
TEST(AnthropicService, AnswersAsTheOtherApisDo) {
  const MiniService mini;
  const Json messages = Json::parse(R"([{"role": "user", "content": "안녕하세요"}])");
  const Json body = {{"model", "mini"}, {"messages", messages}, {"temperature", 0}, {"max_tokens", 12}};
  const Json openai = post(mini.client(), "/v1/chat/completions", body);
  const Json whole = post(mini.client(), "/v1/messages", body);
  ASSERT_EQ(whole["content"].size(), 1u) << whole;
  EXPECT_EQ(whole["content"][0]["text"], openai["choices"][0]["message"]["content"]);
  const int64_t prompt = openai["usage"]["prompt_tokens"];
  EXPECT_EQ(whole["usage"]["input_tokens"].get<int64_t>() +
                whole["usage"]["cache_read_input_tokens"].get<int64_t>(),
            prompt);
  EXPECT_EQ(whole["stop_reason"],
            openai["choices"][0]["finish_reason"] == "length" ? "max_tokens" : "end_turn");
  Json streamed = body;
  streamed["stream"] = true;
  std::string text;
  for (const Json& event : events_of(stream(mini.client(), "/v1/messages", streamed, "text/event-stream")))
    if (event["type"] == "content_block_delta") text += event["delta"]["text"].get<std::string>();
  EXPECT_EQ(text, whole["content"][0]["text"]);
  EXPECT_EQ(post(mini.client(), "/v1/messages/count_tokens",
                 {{"model", "mini"}, {"messages", messages}})["input_tokens"],
            prompt);
  // The answer goes on from what is given, which is not repeated.
  const std::string answer = whole["content"][0]["text"];
  const std::string first_word = answer.substr(0, answer.find(' '));
  Json prefilled = body;
  prefilled["messages"].push_back({{"role", "assistant"}, {"content", first_word}});
  const Json rest = post(mini.client(), "/v1/messages", prefilled);
  EXPECT_EQ(
      rest["usage"]["input_tokens"].get<int64_t>() + rest["usage"]["cache_read_input_tokens"].get<int64_t>() >
          prompt,
      true);
  EXPECT_FALSE(rest["content"][0]["text"].get<std::string>().starts_with(first_word + first_word));
}

}  // namespace
}  // namespace onggi

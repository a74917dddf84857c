#include "serve/chat_api.h"

#include <gtest/gtest.h>

#include "tests/serve/samples.h"

namespace onggi {
namespace {

TEST(Chat, MakesAConversation) {
  const Query query =
      parse_chat(Json::parse(R"({"message": "안녕", "system": "s", "stream": true, "max_tokens": 8,
      "think": false, "history": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})"),
                 sample_model());
  const auto& conversation = std::get<Conversation>(query.prompt);
  EXPECT_EQ(conversation.messages, Json::parse(R"([{"role": "system", "content": "s"},
      {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "안녕"}])"));
  EXPECT_EQ(conversation.enable_thinking, false);
  EXPECT_EQ(query.delivery, Delivery::kStreamed);
  EXPECT_EQ(query.max_new_tokens, 8);
}

TEST(Chat, RefusesByNamingTheField) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({})", "message"},
      {R"({"message": 5})", "message"},
      {R"({"message": ""})", "message"},
      {R"({"message": null})", "message"},
      {R"({"message": "x", "history": {}})", "history"},
      {R"({"message": "x", "history": [{"role": "x"}]})", "history[0].role"},
      {R"({"message": "x", "temperature": []})", "temperature"},
      {R"({"message": "x", "max_tokens": 1.5})", "max_tokens"},
      {R"({"message": "x", "system": 1})", "system"},
      {R"({"message": "x", "think": "yes"})", "think"},
      {R"({"message": "x", "format": "yaml"})", "format"},
  };
  for (const auto& [body, field] : cases)
    EXPECT_EQ(refusal_of([&, body = body] { parse_chat(Json::parse(body), sample_model()); }),
              std::pair(400, field))
        << body;
}

TEST(ChatAnswer, StreamsByteForByte) {
  const auto formatter = chat_formatter(sample_head());
  EXPECT_EQ(
      formatter->begin() + formatter->piece(text_event("안녕")) + formatter->piece(last_event()) +
          formatter->end({sample_result()}),
      "data: {\"response\":\"안녕\"}\n\n"
      "data: {\"response\":\"\",\"model\":\"m\",\"finish_reason\":\"stop\",\"usage\":{\"prompt_tokens\":7,"
      "\"completion_tokens\":3,\"total_tokens\":10},\"duration_s\":0.75,\"time_to_first_token_s\":0.25,"
      "\"tokens_per_s\":4.0,\"done\":true}\n\ndata: [DONE]\n\n");
}

TEST(ChatAnswer, WholeHasTheResponse) {
  Answer answer;
  answer.content = "hi";
  answer.reasoning = "hm";
  const Json whole = chat_formatter(sample_head())->whole({answer}, {sample_result()});
  EXPECT_EQ(whole["response"], "hi");
  EXPECT_EQ(whole["thinking"], "hm");
  EXPECT_EQ(whole["usage"]["completion_tokens"], 3);
}

}  // namespace
}  // namespace onggi

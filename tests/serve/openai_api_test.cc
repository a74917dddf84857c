#include "serve/openai_api.h"

#include <gtest/gtest.h>

#include "tests/serve/samples.h"

namespace onggi {
namespace {

const char* const kMini = "models/onggi-mini";

Query parse_chat_text(const std::string& extra) {
  return parse_openai_chat(
      Json::parse(R"({"model": "qwen3-finetune-8b", "messages": [{"role": "user", "content": "hi"}])" +
                  extra + "}"),
      sample_model());
}

const Conversation& conversation(const Query& query) { return std::get<Conversation>(query.prompt); }

TEST(OpenaiChat, ReadsAllFields) {
  const Query query = parse_chat_text(
      R"(, "temperature": 0, "top_p": 0.5, "max_tokens": 5, "max_completion_tokens": 9, "stop": ["a", "b"], "seed": 7,
         "n": 2, "logprobs": true, "top_logprobs": 3, "logit_bias": {"12": -100}, "stream": true,
         "presence_penalty": 1, "reasoning_effort": "none", "chat_template_kwargs": {"custom": 1},
         "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}})");
  EXPECT_EQ(query.sampling.temperature, 0);
  EXPECT_EQ(query.sampling.top_p, 0.5);
  EXPECT_EQ(query.sampling.seed, 7u);
  EXPECT_EQ(query.sampling.presence_penalty, 1);
  ASSERT_EQ(query.sampling.logit_bias.size(), 1u);
  EXPECT_EQ(query.sampling.logit_bias[0], std::pair(12, -100.0f));
  EXPECT_EQ(query.max_new_tokens, 9);
  EXPECT_EQ(query.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(query.choices, 2);
  EXPECT_EQ(query.top_logprobs, 3);
  EXPECT_EQ(query.delivery, Delivery::kStreamed);
  EXPECT_EQ(query.format, AnswerFormat::kJsonSchema);
  EXPECT_EQ(query.schema, Json({{"type", "object"}}));
  EXPECT_EQ(conversation(query).enable_thinking, false);
  EXPECT_EQ(conversation(query).template_variables, Json({{"custom", 1}}));
}

TEST(OpenaiChat, TakesTheModelsDefaults) {
  const Query query = parse_chat_text("");
  EXPECT_EQ(query.sampling.temperature, sample_model().sampling.temperature);
  EXPECT_EQ(query.max_new_tokens, 2048);
  EXPECT_EQ(query.delivery, Delivery::kWhole);
  EXPECT_EQ(conversation(query).enable_thinking, std::nullopt);
}

TEST(OpenaiChat, RefusesByNamingTheField) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"(, "temperature": "warm")", "temperature"},
      {R"(, "temperature": -1)", "temperature"},
      {R"(, "max_tokens": 0)", "max_tokens"},
      {R"(, "stream": 1)", "stream"},
      {R"(, "n": 1000)", "n"},
      {R"(, "stop": [1])", "stop"},
      {R"(, "stop": "")", "stop"},
      {R"(, "top_logprobs": 3)", "top_logprobs"},
      {R"(, "logit_bias": {"x": 1})", "logit_bias"},
      {R"(, "logit_bias": {"1": 101})", "logit_bias"},
      {R"(, "response_format": {"type": "xml"})", "response_format.type"},
      {R"(, "response_format": {"type": "json_schema"})", "response_format.json_schema"},
      {R"(, "tool_choice": "required")", "tool_choice"},
      {R"(, "tools": [{"type": "function"}])", "tools[0].function"},
      {R"(, "reasoning_effort": "much")", "reasoning_effort"},
      {R"(, "functions": [])", "functions"},
      {R"(, "messages": [])", "messages"},
      {R"(, "messages": "hi")", "messages"},
  };
  for (const auto& [extra, field] : cases)
    EXPECT_EQ(refusal_of([&, extra = extra] { parse_chat_text(extra); }), std::pair(400, field)) << extra;
  EXPECT_EQ(refusal_of([&] { parse_chat_text(R"(, "model": "gpt-4")"); }),
            std::pair(404, std::string("model")));
  EXPECT_EQ(refusal_of([&] { parse_openai_chat(Json::object(), sample_model()); }).second, "model");
}

TEST(OpenaiChat, ForcesCallsByTheBeginningOfTheAnswer) {
  const std::string tools = R"(, "tools": [{"type": "function", "function": {"name": "f"}},
                                           {"type": "function", "function": {"name": "g"}}], "tool_choice": )";
  EXPECT_EQ(conversation(parse_chat_text(tools + "\"auto\"")).forced_start, "");
  EXPECT_EQ(conversation(parse_chat_text(tools + "\"auto\"")).tools.size(), 2u);
  EXPECT_TRUE(conversation(parse_chat_text(tools + "\"none\"")).tools.is_null());
  EXPECT_EQ(conversation(parse_chat_text(tools + "\"required\"")).forced_start, "<tool_call>\n{\"name\": \"");
  const std::string named = R"({"type": "function", "function": {"name": ")";
  EXPECT_EQ(conversation(parse_chat_text(tools + named + "g\"}}")).forced_start,
            "<tool_call>\n{\"name\": \"g\", \"arguments\": ");
  EXPECT_EQ(refusal_of([&] { parse_chat_text(tools + named + "h\"}}"); }),
            std::pair(400, std::string("tool_choice")));
}

TEST(OpenaiCompletion, ReadsPrompts) {
  const auto parse = [](const std::string& prompt) {
    return parse_openai_completion(
        Json::parse(R"({"model": "Qwen/Qwen3-8B", "logprobs": 2, "prompt": )" + prompt + "}"),
        sample_model());
  };
  EXPECT_EQ(std::get<RawPrompt>(parse("\"a\"").prompt).text, "a");
  EXPECT_EQ(std::get<RawPrompt>(parse("[\"a\"]").prompt).text, "a");
  EXPECT_EQ(std::get<PromptIds>(parse("[1, 2]").prompt).ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(std::get<PromptIds>(parse("[[1, 2]]").prompt).ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(parse("\"a\"").top_logprobs, 2);
  for (const char* bad : {"5", "[]", "[\"a\", \"b\"]", "[-1]", "null", "[1, \"a\"]", "[[]]"})
    EXPECT_EQ(refusal_of([&] { parse(bad); }), std::pair(400, std::string("prompt"))) << bad;
}

std::string stream_of(AnswerFormatter& formatter, const std::vector<AnswerEvent>& events) {
  std::string out = formatter.begin();
  for (const AnswerEvent& event : events) out += formatter.piece(event);
  return out + formatter.end({sample_result()});
}

TEST(OpenaiChatAnswer, StreamsByteForByte) {
  AnswerEvent thought;
  thought.piece.reasoning = "hm";
  AnswerEvent call = last_event();
  call.piece.tool_calls.push_back({"call_1", "f", {{"x", 1}}});
  const auto formatter =
      openai_chat_formatter(sample_head(), Query{}, StreamUsage::kYes, Tokenizer::load(kMini));
  const std::string head =
      R"(data: {"id":"id-1","object":"chat.completion.chunk","created":1795503600,"model":"m","system_fingerprint":"onggi","choices":[)";
  const std::string first = head + R"({"index":0,"delta":)";
  const std::string open = R"(,"logprobs":null,"finish_reason":null}],"usage":null})"
                           "\n\n";
  EXPECT_EQ(
      stream_of(*formatter, {thought, text_event("안녕"), call}),
      first + R"({"role":"assistant","content":""})" + open + first +
          R"({"reasoning_content":"hm","reasoning":"hm"})" + open + first + R"({"content":"안녕"})" + open +
          first +
          R"({"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]})" +
          open + first +
          R"({},"logprobs":null,"finish_reason":"tool_calls"}],"usage":null})"
          "\n\n" +
          head +
          R"(],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":2}}})"
          "\n\n" +
          "data: [DONE]\n\n");
}

TEST(OpenaiChatAnswer, WholeHasLogprobsAndUsage) {
  Query query;
  query.logprobs = Query::Logprobs::kYes;
  const Tokenizer tokenizer = Tokenizer::load(kMini);
  const auto ids = tokenizer.encode("Hi");
  const auto formatter = openai_chat_formatter(sample_head(), query, StreamUsage::kNo, tokenizer);
  Answer answer;
  answer.content = "Hi";
  for (const int32_t id : ids) answer.tokens.push_back({id, -0.5f, {{id, -0.5f}}});
  answer.tokens.push_back({*tokenizer.id_of("<|im_end|>"), -0.1f, {}});  // ended the answer: no text
  GenerationResult result = sample_result();
  result.reason = FinishReason::kLength;
  const Json whole = formatter->whole({answer}, {result});
  EXPECT_EQ(whole["object"], "chat.completion");
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["choices"][0]["message"], Json({{"role", "assistant"}, {"content", "Hi"}}));
  const Json& tokens = whole["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(tokens.size(), ids.size());
  EXPECT_EQ(tokens[0]["top_logprobs"].size(), 1u);
  EXPECT_EQ(tokens[0]["token"], "H");
  EXPECT_EQ(tokens[0]["bytes"], Json::array({72}));
  EXPECT_EQ(whole["usage"]["total_tokens"], 10);
}

TEST(OpenaiChatAnswer, ChoicesAreApart) {
  Query query;
  query.choices = 2;
  const auto formatter =
      openai_chat_formatter(sample_head(), query, StreamUsage::kNo, Tokenizer::load(kMini));
  const std::string begin = formatter->begin();
  EXPECT_NE(begin.find(R"("index":0)"), std::string::npos);
  EXPECT_NE(begin.find(R"("index":1)"), std::string::npos);
  AnswerEvent event = text_event("x");
  event.choice = 1;
  EXPECT_NE(formatter->piece(event).find(R"("index":1)"), std::string::npos);
}

TEST(OpenaiCompletionAnswer, StreamsByteForByte) {
  const auto formatter =
      openai_completion_formatter(sample_head(), Query{}, StreamUsage::kNo, Tokenizer::load(kMini));
  const std::string head =
      R"(data: {"id":"id-1","object":"text_completion","created":1795503600,"model":"m","system_fingerprint":"onggi","choices":[{"text":)";
  EXPECT_EQ(stream_of(*formatter, {text_event("a"), last_event()}),
            head +
                R"("a","index":0,"logprobs":null,"finish_reason":null}]})"
                "\n\n" +
                head +
                R"("","index":0,"logprobs":null,"finish_reason":"stop"}]})"
                "\n\n" +
                "data: [DONE]\n\n");
}

TEST(OpenaiError, HasTheShapeThatClientsParse) {
  EXPECT_EQ(openai_error(400, "bad", "n"),
            R"({"error":{"message":"bad","type":"invalid_request_error","param":"n","code":null}})");
  EXPECT_EQ(
      openai_error(404, "no", "model"),
      R"({"error":{"message":"no","type":"not_found_error","param":"model","code":"model_not_found"}})");
  EXPECT_EQ(
      openai_error(401, "key"),
      R"({"error":{"message":"key","type":"authentication_error","param":null,"code":"invalid_api_key"}})");
}

TEST(OpenaiModels, ListAllNames) {
  const Json models = openai_models(sample_model());
  EXPECT_EQ(models["object"], "list");
  EXPECT_EQ(models["data"][0]["id"], "qwen3-finetune-8b");
  EXPECT_EQ(models["data"][1]["id"], "Qwen/Qwen3-8B");
}

}  // namespace
}  // namespace onggi

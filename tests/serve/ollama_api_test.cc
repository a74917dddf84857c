#include "serve/ollama_api.h"

#include <gtest/gtest.h>

#include "tests/serve/samples.h"

namespace onggi {
namespace {

const char* const kMini = "models/onggi-mini";
using Kind = OllamaRequest::Kind;

OllamaRequest chat(const std::string& extra) {
  return parse_ollama_chat(Json::parse(R"({"model": "qwen3-finetune-8b:latest")" + extra + "}"),
                           sample_model());
}
OllamaRequest generate(const std::string& extra) {
  return parse_ollama_generate(Json::parse(R"({"model": "QWEN3-finetune-8b")" + extra + "}"), sample_model());
}

const std::string kHi = R"(, "messages": [{"role": "user", "content": "hi"}])";

TEST(OllamaChat, ReadsAllFields) {
  const OllamaRequest request =
      chat(kHi + R"(, "think": true, "stream": false, "format": "json", "keep_alive": "5m",
      "options": {"temperature": 0, "top_k": 5, "seed": 42, "num_predict": 20, "num_ctx": 1024, "stop": ["x"],
                  "num_gpu": 1, "mirostat": 2, "repeat_penalty": 1.1}, "truncate": true, "shift": true)");
  const Query& query = request.query;
  EXPECT_EQ(request.kind, Kind::kAnswer);
  EXPECT_EQ(query.delivery, Delivery::kWhole);
  EXPECT_EQ(query.format, AnswerFormat::kJsonObject);
  EXPECT_EQ(query.sampling.temperature, 0);
  EXPECT_EQ(query.sampling.top_k, 5);
  EXPECT_EQ(query.sampling.repeat_penalty, 1.1);
  EXPECT_EQ(query.max_new_tokens, 20);
  EXPECT_EQ(query.context_limit, 1024);
  EXPECT_EQ(query.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(std::get<Conversation>(query.prompt).enable_thinking, true);
  EXPECT_EQ(chat(kHi).query.delivery, Delivery::kStreamed) << "streams by default";
  EXPECT_EQ(chat(kHi + R"(, "options": {"num_predict": -1})").query.max_new_tokens, std::nullopt);
}

TEST(OllamaRequests, LoadAndUnload) {
  EXPECT_EQ(chat("").kind, Kind::kLoad);
  EXPECT_EQ(chat(R"(, "messages": [], "keep_alive": 0)").kind, Kind::kUnload);
  EXPECT_EQ(generate("").kind, Kind::kLoad);
  EXPECT_EQ(generate(R"(, "keep_alive": "0s")").kind, Kind::kUnload);
  EXPECT_EQ(generate(R"(, "keep_alive": -1)").kind, Kind::kLoad);
  EXPECT_EQ(
      ollama_load_answer(sample_head(), OllamaEndpoint::kGenerate, Kind::kUnload).dump(),
      R"({"model":"m","created_at":"2026-11-24T07:00:00.000000001Z","response":"","done":true,"done_reason":"unload"})");
}

TEST(OllamaGenerate, MakesAConversationOrTakesThePromptAsItIs) {
  const auto conversation =
      std::get<Conversation>(generate(R"(, "prompt": "hi", "system": "s", "context": [1, 2])").query.prompt);
  EXPECT_EQ(conversation.messages,
            Json::parse(R"([{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}])"));
  EXPECT_EQ(conversation.prefix_ids, (std::vector<int32_t>{1, 2}));
  const Query raw = generate(R"(, "prompt": "hi", "raw": true)").query;
  EXPECT_EQ(std::get<RawPrompt>(raw.prompt).text, "hi");
  EXPECT_EQ(raw.structure, Query::Structure::kPlain);
}

TEST(OllamaRequests, RefuseByNamingTheField) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"(, "prompt": 5)", "prompt"},
      {R"(, "prompt": "x", "images": ["aGk="])", "images"},
      {R"(, "prompt": "x", "suffix": "y")", "suffix"},
      {R"(, "prompt": "x", "template": "{{ .Prompt }}")", "template"},
      {R"(, "prompt": "x", "format": "xml")", "format"},
      {R"(, "prompt": "x", "format": 5)", "format"},
      {R"(, "prompt": "x", "think": "much")", "think"},
      {R"(, "prompt": "x", "stream": "no")", "stream"},
      {R"(, "prompt": "x", "context": ["a"])", "context"},
      {R"(, "prompt": "x", "options": [])", "options"},
      {R"(, "prompt": "x", "options": {"temperature": "0"})", "options.temperature"},
      {R"(, "prompt": "x", "options": {"num_predict": 0})", "options.num_predict"},
      {R"(, "prompt": "x", "options": {"top_p": 2})", "options.top_p"},
      {R"(, "prompt": "", "keep_alive": [])", "keep_alive"},
  };
  for (const auto& [extra, field] : cases)
    EXPECT_EQ(refusal_of([&, extra = extra] { generate(extra); }), std::pair(400, field)) << extra;
  EXPECT_EQ(refusal_of([&] { chat(R"(, "messages": [{"role": "user", "content": 5}])"); }).second,
            "messages[0].content");
  EXPECT_EQ(refusal_of([&] { chat(R"(, "model": "llama3")"); }), std::pair(404, std::string("model")));
}

TEST(OllamaRequests, SayWhatTheModelCannotDo) {
  ServedModel plain = sample_model();
  plain.tools = plain.thinking = ServedModel::Capability::kNo;
  const Json body =
      Json::parse(R"({"model": "qwen3-finetune-8b", "messages": [{"role": "user", "content": "x"}]})");
  Json tools = body;
  tools["tools"] = Json::parse(R"([{"type": "function", "function": {"name": "f"}}])");
  Json think = body;
  think["think"] = true;
  EXPECT_EQ(refusal_of([&] { parse_ollama_chat(tools, plain); }), std::pair(400, std::string("tools")));
  EXPECT_EQ(refusal_of([&] { parse_ollama_chat(think, plain); }), std::pair(400, std::string("think")));
  think["think"] = false;
  EXPECT_EQ(refusal_of([&] { parse_ollama_chat(think, plain); }).first, 200);
}

// No blank line: ollama-python parses every line.
TEST(OllamaAnswer, StreamsByteForByte) {
  const auto formatter = ollama_chat_formatter(sample_head(), Query{}, Tokenizer::load(kMini));
  AnswerEvent thought;
  thought.piece.reasoning = "hm";
  AnswerEvent call;
  call.piece.tool_calls.push_back({"call_1", "f", {{"x", 1}}});
  const std::string head = R"({"model":"m","created_at":"2026-11-24T07:00:00.000000001Z",)";
  EXPECT_EQ(
      formatter->begin() + formatter->piece(thought) + formatter->piece(text_event("안녕")) +
          formatter->piece(call) + formatter->piece(AnswerEvent{}) + formatter->piece(last_event()) +
          formatter->end({sample_result()}),
      head +
          R"("message":{"role":"assistant","content":"","thinking":"hm"},"done":false})"
          "\n" +
          head +
          R"("message":{"role":"assistant","content":"안녕"},"done":false})"
          "\n" +
          head +
          R"("message":{"role":"assistant","content":"","tool_calls":[{"id":"call_1","function":{"index":0,"name":"f","arguments":{"x":1}}}]},"done":false})"
          "\n" +
          head +
          R"("message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":750000000,"load_duration":0,"prompt_eval_count":7,"prompt_eval_duration":200000000,"eval_count":3,"eval_duration":500000000})"
          "\n");
  EXPECT_EQ(formatter->ping(), "");
  EXPECT_EQ(formatter->stream_error(500, "broken"), "{\"error\":\"broken\"}\n");
}

TEST(OllamaAnswer, GenerateGivesTheContextForTheNextRequest) {
  const auto formatter = ollama_generate_formatter(sample_head(), Query{}, Tokenizer::load(kMini), {5, 6});
  Answer answer;
  answer.content = "x";
  answer.tokens = {{7, 0, {}}, {8, 0, {}}};
  const Json whole = formatter->whole({answer}, {sample_result()});
  EXPECT_EQ(whole["response"], "x");
  EXPECT_EQ(whole["context"], Json::array({5, 6, 7, 8}));
  EXPECT_EQ(whole["done"], true);
  const auto raw = ollama_generate_formatter(sample_head(), Query{}, Tokenizer::load(kMini), {});
  EXPECT_FALSE(raw->whole({answer}, {sample_result()}).contains("context"));
}

TEST(OllamaModels, TellWhatClientsRead) {
  const Json tags = ollama_tags(sample_model());
  EXPECT_EQ(tags["models"][0]["name"], "qwen3-finetune-8b:latest");
  EXPECT_EQ(tags["models"][0]["model"], "qwen3-finetune-8b:latest");
  EXPECT_EQ(tags["models"][1]["name"], "Qwen/Qwen3-8B:latest");
  EXPECT_EQ(tags["models"][0]["digest"].get<std::string>().size(), 64u);
  EXPECT_EQ(tags["models"][0]["details"]["quantization_level"], "Q4_K_M");
  EXPECT_EQ(ollama_running(sample_model(), 77)["models"][0]["size"], 77);
  const Json show = ollama_show({{"name", "qwen3-finetune-8b"}}, sample_model());
  EXPECT_EQ(show["capabilities"], Json::array({"completion", "tools", "thinking"}));
  EXPECT_EQ(show["model_info"]["qwen3.context_length"], 40960);
  EXPECT_EQ(show["template"], sample_model().chat_template);
  EXPECT_EQ(refusal_of([&] { ollama_show({{"model", "x"}}, sample_model()); }).first, 404);
  EXPECT_EQ(refusal_of([&] { ollama_show(Json::object(), sample_model()); }),
            std::pair(400, std::string("model")));
}

}  // namespace
}  // namespace onggi

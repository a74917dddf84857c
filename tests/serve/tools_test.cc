// Calls of tools from end to end: a stand-in for the model writes the block that Qwen3 writes, and every API
// gives the call, takes its result, and streams both.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/infer/fake_runner.h"
#include "tests/serve/mini_service.h"

namespace onggi {
namespace {

// Renders tools, calls and results as Qwen3's own template does, as far as these tests go.
constexpr const char* kTemplate = R"({%- if tools %}{{- '<|im_start|>system\n# Tools\n<tools>' }}
{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}{{- '\n</tools><|im_end|>\n' }}{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %})";

constexpr const char* kCall =
    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"서울\", \"days\": "
    "2}}\n</tool_call>";
constexpr const char* kAnswer = "서울은 21도입니다.";

// Calls the tool until a result is there, then answers.
class ToolModel {
 public:
  explicit ToolModel(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  int32_t operator()(const std::vector<int32_t>& history) const {
    const int32_t turn = *tokenizer_.id_of("<|im_start|>");
    size_t begin = history.size();
    while (history[begin - 1] != turn) --begin;
    const size_t header = tokenizer_.encode("assistant\n").size();
    const size_t written = history.size() - begin - header;
    const std::string prompt = tokenizer_.decode(
        std::vector<int32_t>(history.begin(), history.begin() + static_cast<ptrdiff_t>(begin)));
    const bool has_result = prompt.find("<tool_response>") != std::string::npos;
    const std::vector<int32_t> script = tokenizer_.encode(has_result ? kAnswer : kCall);
    return written < script.size() ? script[written] : *tokenizer_.id_of("<|im_end|>");
  }

 private:
  Tokenizer tokenizer_;
};

struct ToolService {
  ToolService() : service(free_ports()) {
    LoadedModel model = load_chat_model("models/onggi-mini", {}, threads);
    model.chat_template.emplace(kTemplate);
    EngineOptions options;
    options.context_length = 512;
    options.max_batch = 2;
    options.kv_dtype = DType::kF32;
    service.start();
    auto runner = std::make_unique<FakeRunner>(model.model->config, ToolModel(model.tokenizer));
    service.load(std::move(model), std::move(runner), options, {{"tools"}, ""});
  }
  httplib::Client client() const { return MiniService::client_to(service.url()); }

  ThreadPool threads{1};
  Service service;
};

const ToolService& service() {
  static const ToolService instance;
  return instance;
}

const Json kParameters = Json::parse(
    R"({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}})");
const Json kTools = {
    {{"type", "function"},
     {"function", {{"name", "get_weather"}, {"description", "d"}, {"parameters", kParameters}}}}};
const Json kArguments = Json::parse(R"({"city": "서울", "days": 2})");
const Json kQuestion = {{"role", "user"}, {"content", "서울 날씨는?"}};

TEST(Tools, OverOpenai) {
  Json body = {
      {"model", "tools"}, {"messages", Json::array({kQuestion})}, {"tools", kTools}, {"max_tokens", 100}};
  const Json first = post(service().client(), "/v1/chat/completions", body);
  const Json& message = first["choices"][0]["message"];
  EXPECT_EQ(first["choices"][0]["finish_reason"], "tool_calls");
  EXPECT_TRUE(message["content"].is_null()) << message;
  ASSERT_EQ(message["tool_calls"].size(), 1u);
  EXPECT_EQ(message["tool_calls"][0]["function"]["name"], "get_weather");
  // A string, whose JSON is the object.
  EXPECT_EQ(Json::parse(message["tool_calls"][0]["function"]["arguments"].get<std::string>()), kArguments);

  Json streamed = body;
  streamed["stream"] = true;
  std::string name, arguments, finish;
  for (const Json& event :
       events_of(stream(service().client(), "/v1/chat/completions", streamed, "text/event-stream"))) {
    const Json& choice = event["choices"][0];
    if (choice["finish_reason"].is_string()) finish = choice["finish_reason"];
    if (!choice["delta"].contains("tool_calls")) continue;
    const Json& call = choice["delta"]["tool_calls"][0];
    EXPECT_EQ(call["index"], 0);
    name += call["function"].value("name", "");
    arguments += call["function"].value("arguments", "");
  }
  EXPECT_EQ(name, "get_weather");
  EXPECT_EQ(Json::parse(arguments), kArguments);
  EXPECT_EQ(finish, "tool_calls");

  body["messages"].push_back(message);
  body["messages"].push_back(
      {{"role", "tool"}, {"tool_call_id", message["tool_calls"][0]["id"]}, {"content", "21"}});
  const Json second = post(service().client(), "/v1/chat/completions", body);
  EXPECT_EQ(second["choices"][0]["message"]["content"], kAnswer);
  EXPECT_EQ(second["choices"][0]["finish_reason"], "stop");
}

TEST(Tools, OverOllama) {
  const Json show = post(service().client(), "/api/show", {{"model", "tools"}});
  EXPECT_THAT(show["capabilities"].get<std::vector<std::string>>(), testing::Contains("tools"));
  Json body = {{"model", "tools"},
               {"messages", Json::array({kQuestion})},
               {"tools", kTools},
               {"stream", false},
               {"options", {{"num_predict", 100}}}};
  const Json first = post(service().client(), "/api/chat", body);
  ASSERT_EQ(first["message"]["tool_calls"].size(), 1u) << first;
  const Json& call = first["message"]["tool_calls"][0]["function"];
  EXPECT_EQ(call["name"], "get_weather");
  EXPECT_EQ(call["arguments"], kArguments);  // an object here
  EXPECT_EQ(first["message"]["content"], "");

  Json streamed = body;
  streamed["stream"] = true;
  Json calls = Json::array();
  std::string text;
  for (const Json& line :
       lines_of(stream(service().client(), "/api/chat", streamed, "application/x-ndjson"))) {
    text += line["message"]["content"].get<std::string>();
    if (line["message"].contains("tool_calls"))
      for (const Json& entry : line["message"]["tool_calls"]) calls.push_back(entry["function"]["arguments"]);
  }
  EXPECT_EQ(text, "");
  EXPECT_EQ(calls, Json::array({kArguments}));

  body["messages"].push_back(first["message"]);
  body["messages"].push_back({{"role", "tool"}, {"tool_name", "get_weather"}, {"content", "21"}});
  EXPECT_EQ(post(service().client(), "/api/chat", body)["message"]["content"], kAnswer);
}

TEST(Tools, OverAnthropic) {
  Json body = {{"model", "tools"},
               {"messages", Json::array({kQuestion})},
               {"tools", {{{"name", "get_weather"}, {"description", "d"}, {"input_schema", kParameters}}}},
               {"max_tokens", 100}};
  const Json first = post(service().client(), "/v1/messages", body);
  EXPECT_EQ(first["stop_reason"], "tool_use");
  ASSERT_EQ(first["content"].size(), 1u) << first;
  EXPECT_EQ(first["content"][0]["type"], "tool_use");
  EXPECT_EQ(first["content"][0]["name"], "get_weather");
  EXPECT_EQ(first["content"][0]["input"], kArguments);

  Json streamed = body;
  streamed["stream"] = true;
  std::string arguments;
  for (const Json& event :
       events_of(stream(service().client(), "/v1/messages", streamed, "text/event-stream")))
    if (event["type"] == "content_block_delta")
      arguments += event["delta"]["partial_json"].get<std::string>();
  EXPECT_EQ(Json::parse(arguments), kArguments);

  body["messages"].push_back({{"role", "assistant"}, {"content", first["content"]}});
  body["messages"].push_back(
      {{"role", "user"},
       {"content",
        {{{"type", "tool_result"}, {"tool_use_id", first["content"][0]["id"]}, {"content", "21"}}}}});
  const Json second = post(service().client(), "/v1/messages", body);
  EXPECT_EQ(second["content"][0]["text"], kAnswer);
  EXPECT_EQ(second["stop_reason"], "end_turn");
}

}  // namespace
}  // namespace onggi

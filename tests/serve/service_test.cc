// The whole service in this process, with the embedded model, over real HTTP.
#include "serve/service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "base/clock.h"
#include "kernels/table.h"
#include "serve/chat_client.h"
#include "serve/generator.h"
#include "serve/loadtest.h"
#include "serve/memory_plan.h"
#include "tests/serve/mini_service.h"
#include "tests/serve/raw_connection.h"
#include "tests/serve/samples.h"

namespace onggi {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// One for all tests that do not change it.
const MiniService& mini() {
  static const MiniService service;
  return service;
}

const Json kHello = Json::parse(R"([{"role": "user", "content": "안녕하세요"}])");

bool wait_until(const std::function<bool()>& condition, double seconds = 10) {
  const Stopwatch watch;
  while (!condition() && watch.seconds() < seconds) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return condition();
}

TEST(Service, HealthAndInformation) {
  auto client = mini().client();
  const Json health = Json::parse(client.Get("/health")->body);
  EXPECT_EQ(health["status"], "ok");
  EXPECT_EQ(health["model"], "onggi-mini");
  EXPECT_EQ(Json::parse(client.Get("/v1/models")->body)["data"][0]["id"], "onggi-mini");
  EXPECT_EQ(Json::parse(client.Get("/v1/models/mini")->body)["id"], "mini");
  EXPECT_EQ(client.Get("/v1/models/other")->status, 404);
  auto ollama = mini().ollama();
  EXPECT_EQ(ollama.Get("/")->body, "Ollama is running");
  EXPECT_EQ(ollama.Head("/")->status, 200);
  EXPECT_EQ(ollama.Head("/api/version")->status, 200);
  EXPECT_THAT(Json::parse(ollama.Get("/api/version")->body)["version"].get<std::string>(), HasSubstr("."));
  EXPECT_EQ(Json::parse(ollama.Get("/api/tags")->body)["models"][0]["name"], "onggi-mini:latest");
  EXPECT_EQ(Json::parse(ollama.Get("/api/ps")->body)["models"][0]["context_length"], 2048);
  const Json show = post(mini().ollama(), "/api/show", {{"model", "mini"}});
  EXPECT_EQ(show["model_info"]["qwen3.block_count"], 4);
  EXPECT_EQ(show["details"]["family"], "qwen3");
  EXPECT_EQ(post(mini().ollama(), "/api/pull", {{"model", "mini"}, {"stream", false}})["status"], "success");
}

// All APIs render the same prompt, so greedy answers are one text.
TEST(Service, AllApisGiveTheSameAnswer) {
  const Json chat = post(mini().client(), "/chat", {{"message", "안녕하세요"}, {"temperature", 0}});
  const std::string answer = chat["response"];
  EXPECT_FALSE(answer.empty());
  EXPECT_GT(chat["usage"]["prompt_tokens"], 0);
  const Json openai = post(mini().client(), "/v1/chat/completions",
                           {{"model", "onggi-mini"}, {"messages", kHello}, {"temperature", 0}});
  EXPECT_EQ(openai["choices"][0]["message"]["content"], answer);
  EXPECT_EQ(openai["usage"], Json::parse(dump(openai["usage"])));
  EXPECT_EQ(openai["usage"]["prompt_tokens"], chat["usage"]["prompt_tokens"]);
  const Json greedy = {{"temperature", 0}};
  const Json ollama = post(mini().ollama(), "/api/chat",
                           {{"model", "mini"}, {"messages", kHello}, {"stream", false}, {"options", greedy}});
  EXPECT_EQ(ollama["message"]["content"], answer);
  EXPECT_EQ(ollama["prompt_eval_count"], chat["usage"]["prompt_tokens"]);
  EXPECT_GT(ollama["total_duration"], 0);
  const Json generated =
      post(mini().ollama(), "/api/generate",
           {{"model", "mini"}, {"prompt", "안녕하세요"}, {"stream", false}, {"options", greedy}});
  EXPECT_EQ(generated["response"], answer);
  EXPECT_EQ(generated["context"].size(),
            generated["prompt_eval_count"].get<size_t>() + generated["eval_count"].get<size_t>());
}

TEST(Service, PromptsAreThoseOfTheModel) {
  ThreadPool threads(1);
  const LoadedModel model = load_chat_model("models/onggi-mini", {}, threads);
  Query query;
  Conversation conversation;
  conversation.messages = kHello;
  query.prompt = conversation;
  EXPECT_EQ(prepare_prompt(model, query).ids, render_prompt(model, kHello));
  conversation.enable_thinking = false;
  query.prompt = conversation;
  RenderOptions no_thinking;
  no_thinking.enable_thinking = false;
  EXPECT_EQ(prepare_prompt(model, query).ids, render_prompt(model, kHello, no_thinking));
}

TEST(Service, OllamaStreamsLines) {
  const Json request = {{"model", "mini"}, {"messages", kHello}, {"options", {{"temperature", 0}}}};
  Json whole_request = request;
  whole_request["stream"] = false;
  const auto lines = lines_of(stream(mini().ollama(), "/api/chat", request, "application/x-ndjson"));
  ASSERT_GE(lines.size(), 2u);
  std::string text;
  for (const Json& line : lines) text += line["message"]["content"].get<std::string>();
  EXPECT_EQ(text, post(mini().ollama(), "/api/chat", whole_request)["message"]["content"]);
  for (size_t i = 0; i + 1 < lines.size(); ++i) EXPECT_EQ(lines[i]["done"], false);
  EXPECT_EQ(lines.back()["done"], true);
  EXPECT_THAT(lines.back()["done_reason"].get<std::string>(), ::testing::AnyOf("stop", "length"));
}

TEST(Service, OpenaiStreamsEvents) {
  const std::string body = stream(mini().client(), "/v1/chat/completions",
                                  {{"model", "mini"},
                                   {"messages", kHello},
                                   {"stream", true},
                                   {"temperature", 0},
                                   {"stream_options", {{"include_usage", true}}}},
                                  "text/event-stream");
  EXPECT_THAT(body, StartsWith("data: {\"id\":\"chatcmpl-"));
  EXPECT_THAT(body, EndsWith("}\n\ndata: [DONE]\n\n"));
  std::vector<Json> chunks;
  SseReader reader([&](const std::string& data) {
    if (data != "[DONE]") chunks.push_back(Json::parse(data));
  });
  for (const char byte : body) reader.push(&byte, 1);
  ASSERT_GE(chunks.size(), 3u);
  EXPECT_EQ(chunks.front()["choices"][0]["delta"]["role"], "assistant");
  EXPECT_FALSE(chunks[chunks.size() - 2]["choices"][0]["finish_reason"].is_null());
  EXPECT_EQ(chunks.back()["choices"], Json::array());
  EXPECT_GT(chunks.back()["usage"]["completion_tokens"], 0);
  for (const Json& chunk : chunks) EXPECT_EQ(chunk["id"], chunks.front()["id"]);
}

TEST(Service, ChoicesLogprobsSeedAndStop) {
  const Json request = {{"model", "mini"},  {"messages", kHello}, {"n", 2},           {"seed", 5},
                        {"temperature", 1}, {"max_tokens", 6},    {"logprobs", true}, {"top_logprobs", 2}};
  const Json first = post(mini().client(), "/v1/chat/completions", request);
  ASSERT_EQ(first["choices"].size(), 2u);
  EXPECT_NE(first["choices"][0]["message"], first["choices"][1]["message"]);
  EXPECT_EQ(first["choices"], post(mini().client(), "/v1/chat/completions", request)["choices"]);
  const Json& tokens = first["choices"][0]["logprobs"]["content"];
  ASSERT_GT(tokens.size(), 0u);
  EXPECT_EQ(tokens[0]["top_logprobs"].size(), 2u);
  EXPECT_LE(tokens[0]["logprob"].get<double>(), 0);

  const std::string whole =
      post(mini().client(), "/v1/completions",
           {{"model", "mini"}, {"prompt", "git "}, {"temperature", 0}})["choices"][0]["text"];
  ASSERT_GT(whole.size(), 4u);
  const std::string stop = whole.substr(3, 2);
  const Json stopped = post(mini().client(), "/v1/completions",
                            {{"model", "mini"}, {"prompt", "git "}, {"temperature", 0}, {"stop", stop}});
  EXPECT_EQ(stopped["choices"][0]["text"], whole.substr(0, whole.find(stop)));
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
}

TEST(Service, JsonIsEnforced) {
  const Json schema = Json::parse(
      R"({"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}},
          "required": ["ok", "n"], "additionalProperties": false})");
  const Json answer = post(mini().ollama(), "/api/chat",
                           {{"model", "mini"},
                            {"messages", kHello},
                            {"stream", false},
                            {"format", schema},
                            {"options", {{"num_predict", 60}, {"temperature", 0}}}});
  const Json value = Json::parse(answer["message"]["content"].get<std::string>(), nullptr, false);
  ASSERT_TRUE(value.is_object()) << answer;
  EXPECT_TRUE(value["ok"].is_boolean());
  EXPECT_TRUE(value["n"] == 1 || value["n"] == 2);
  const Json refused = post(
      mini().client(), "/v1/chat/completions",
      {{"model", "mini"},
       {"messages", kHello},
       {"response_format", {{"type", "json_schema"}, {"json_schema", {{"schema", {{"pattern", "x"}}}}}}}},
      400);
  EXPECT_THAT(refused["error"]["message"].get<std::string>(), HasSubstr("pattern"));
}

struct Bad {
  const char* path;
  const char* body;
  int status;
  const char* part;  // of the answer
};

TEST(Service, BadInputIsNamed) {
  const std::vector<Bad> cases = {
      {"/chat", "", 400, "no body"},
      {"/chat", "{", 400, "not valid JSON"},
      {"/chat", "[]", 400, "must be a JSON object"},
      {"/chat", "{\"message\": 5}", 400, "\"field\":\"message\""},
      {"/chat", "{\"message\": \"x\", \"model\": \"gpt-4\"}", 404, "not found"},
      {"/v1/chat/completions", "{\"model\": \"mini\"}", 400, "\"param\":\"messages\""},
      {"/v1/chat/completions", "{\"messages\": []}", 400, "\"param\":\"model\""},
      {"/v1/chat/completions", "{\"model\": \"x\", \"messages\": []}", 404, "model_not_found"},
      {"/v1/chat/completions", "nonsense", 400, "invalid_request_error"},
      {"/v1/completions", "{\"model\": \"mini\", \"prompt\": {}}", 400, "\"param\":\"prompt\""},
      {"/v1/completions", "{\"model\": \"mini\", \"prompt\": [99999999]}", 400, "99999999"},
      {"/v1/completions", "{\"model\": \"mini\", \"prompt\": \"\"}", 400, "must not be empty"},
      {"/v1/messages", "{\"model\": \"mini\", \"messages\": []}", 400,
       "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\""},
      {"/v1/messages", "{\"model\": \"claude\", \"messages\": []}", 404, "\"type\":\"not_found_error\""},
      {"/v1/messages", "{", 400, "\"type\":\"invalid_request_error\""},
      {"/v1/embeddings", R"({"model": "mini"})", 400, "\"param\":\"input\""},
      {"/v1/embeddings", R"({"model": "mini", "input": [1, "a"]})", 400, "not both"},
      {"/v1/embeddings", R"({"model": "mini", "input": [99999]})", 400, "0 to"},
      {"/v1/embeddings", R"({"model": "mini", "input": "a", "dimensions": 100000})", 400, "dimensions"},
      {"/v1/embeddings", R"({"model": "mini", "input": ["a", ""]})", 400, "empty"},
      {"/api/chat", "{\"model\": 1}", 400, "{\"error\":\""},
      {"/api/chat", "{\"model\": \"mini\", \"messages\": {}}", 400, "messages"},
      {"/api/generate", "{\"model\": \"llama3\"}", 404, "try pulling it first"},
      {"/api/generate", "{\"model\": \"mini\", \"prompt\": \"x\", \"options\": {\"top_k\": \"a\"}}", 400,
       "options.top_k"},
      {"/api/chat",
       "{\"model\": \"mini\", \"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"tools\": "
       "[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]}",
       400, "does not support tools"},
      {"/api/show", "{}", 400, "model"},
      {"/api/embed", "{}", 400, "\\\"model\\\" is required"},
      {"/api/embed", R"({"model": "other", "input": "a"})", 404, "not found"},
      {"/api/embed", R"({"model": "mini", "input": 5})", 400, "array of texts"},
      {"/api/create", "{}", 501, "cannot create"},
      {"/nowhere", "{}", 404, "nothing at /nowhere"},
      {"/v1/nowhere", "{}", 404, "not_found_error"},
      {"/health", "{}", 405, "takes GET"},
  };
  for (const Bad& bad : cases) {
    const auto response = mini().client().Post(bad.path, bad.body, "application/json");
    ASSERT_TRUE(response) << bad.path;
    EXPECT_EQ(response->status, bad.status) << bad.path << " " << bad.body << ": " << response->body;
    EXPECT_THAT(response->body, HasSubstr(bad.part)) << bad.path << " " << bad.body;
    EXPECT_FALSE(Json::parse(response->body, nullptr, false).is_discarded()) << response->body;
  }
}

TEST(Service, DeepNestingIsRefusedBeforeItIsParsed) {
  for (const char* path : {"/chat", "/v1/chat/completions", "/v1/completions", "/v1/messages",
                           "/v1/messages/count_tokens", "/api/chat", "/api/generate", "/api/show"}) {
    std::string deep = "{\"model\": \"mini\", \"message\": ";
    for (int i = 0; i < 100'000; ++i) deep += "[";
    const auto response = mini().client().Post(path, deep, "application/json");
    ASSERT_TRUE(response) << path;
    EXPECT_EQ(response->status, 400) << path;
    EXPECT_THAT(response->body, HasSubstr("nested deeper than 64 levels")) << path;
  }
}

TEST(Service, APromptLongerThanTheContextIsRefusedNotCut) {
  std::string longer;
  for (int i = 0; i < 3000; ++i) longer += "word ";
  const Json error = post(mini().client(), "/chat", {{"message", longer}}, 400);
  EXPECT_THAT(error["error"].get<std::string>(), HasSubstr("2048"));
  const Json small =
      post(mini().ollama(), "/api/generate",
           {{"model", "mini"}, {"prompt", "one two three four"}, {"options", {{"num_ctx", 4}}}}, 400);
  EXPECT_THAT(small["error"].get<std::string>(), HasSubstr("num_ctx"));
}

TEST(Service, FiveClientsShareTheModel) {
  LoadTestOptions options;
  options.url = mini().service.url();
  options.users = 5;
  options.requests_per_user = 2;
  options.max_new_tokens = 12;
  const LoadTestResult result = run_load_test(options);
  EXPECT_EQ(result.requests, 10);
  EXPECT_EQ(result.errors, 0) << result.first_error;
  EXPECT_GT(result.generated_tokens, 10);
  EXPECT_GT(result.tokens_per_s, 0);
  EXPECT_EQ(result.first_token_s.count, 10);
  EXPECT_LE(result.first_token_s.p50, result.total_s.p50);
  const auto batches = mini().service.stats().steps_by_batch;
  uint64_t shared = 0;
  for (size_t i = 2; i < batches.size(); ++i) shared += batches[i];
  EXPECT_GT(shared, 0u) << "no two answers shared a step";
  options.url = "http://127.0.0.1:1";
  EXPECT_THROW(run_load_test(options), InputError);
}

TEST(Service, MetricsAndDashboard) {
  post(mini().client(), "/chat", {{"message", "hi"}, {"max_tokens", 4}});
  const auto metrics = mini().client().Get("/metrics");
  EXPECT_THAT(metrics->get_header_value("Content-Type"), StartsWith("text/plain; version=0.0.4"));
  EXPECT_THAT(metrics->body, HasSubstr("onggi_requests_total{api=\"chat\",status=\"200\"}"));
  EXPECT_THAT(metrics->body, HasSubstr("onggi_time_to_first_token_seconds_bucket{api=\"chat\""));
  EXPECT_THAT(metrics->body, HasSubstr("onggi_generated_tokens_total"));
  const Json data = Json::parse(mini().client().Get("/dashboard/data")->body);
  EXPECT_EQ(data["status"], "ok");
  EXPECT_EQ(data["model"]["name"], "onggi-mini");
  EXPECT_GT(data["latency"]["total_s"]["count"], 0);
  EXPECT_GT(data["recent"].size(), 0u);
  EXPECT_THAT(mini().client().Get("/dashboard")->body, HasSubstr("/dashboard/app.js"));
  EXPECT_GT(mini().client().Get("/dashboard/chart.js")->body.size(), 100000u);
  EXPECT_EQ(mini().client().Get("/dashboard/../etc/passwd")->status, 404);
  EXPECT_EQ(mini().client().Get("/")->status, 302);
}

TEST(Service, WebPagesOfOthersAreKeptOut) {
  auto client = mini().client();
  EXPECT_EQ(client.Get("/health", {{"Host", "evil.example"}})->status, 403);
  EXPECT_EQ(client.Get("/health", {{"Origin", "https://evil.example"}})->status, 403);
  const auto own = client.Get("/health", {{"Origin", "http://localhost:3000"}});
  EXPECT_EQ(own->status, 200);
  EXPECT_EQ(own->get_header_value("Access-Control-Allow-Origin"), "http://localhost:3000");
  const auto preflight = client.Options(
      "/api/chat", {{"Origin", "http://localhost:3000"}, {"Access-Control-Request-Headers", "content-type"}});
  EXPECT_EQ(preflight->status, 204);
  EXPECT_EQ(preflight->get_header_value("Access-Control-Allow-Headers"), "content-type");
}

// A request for an answer that does not end by itself: the tokens that could end it are forbidden.
enum class Delivered { kWhole, kStreamed };
void send_endless(RawConnection& connection, Delivered how) {
  const Json body = {{"model", "mini"},
                     {"prompt", "a"},
                     {"max_tokens", 1900},
                     {"stream", how == Delivered::kStreamed},
                     {"logit_bias", {{"8100", -100}, {"8102", -100}}}};
  const std::string text = dump(body);
  connection.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: " +
                  std::to_string(text.size()) + "\r\n\r\n" + text);
}

// The answer of a client that went away gives its place back, streamed or not.
TEST(Service, AClientThatGoesAwayFreesItsPlace) {
  ServerConfig config = free_ports();
  config.max_batch = 1;
  const MiniService one(config);
  uint64_t left = 0;
  for (const Delivered how : {Delivered::kStreamed, Delivered::kWhole}) {
    RawConnection connection(one.service.port());
    send_endless(connection, how);
    if (how == Delivered::kStreamed) {
      EXPECT_THAT(connection.read("data: "), StartsWith("HTTP/1.1 200"));
    }
    ASSERT_TRUE(wait_until([&] { return one.service.stats().active == 1; }));
    connection.end();
    EXPECT_TRUE(wait_until([&] { return one.service.stats().active == 0; }));
    const EngineStats stats = one.service.stats();
    EXPECT_EQ(stats.finished[static_cast<int>(FinishReason::kCancelled)], ++left);
    EXPECT_EQ(stats.kv_pages_used, 0);
    EXPECT_LT(stats.generated_tokens, 1000u);
  }
  post(one.client(), "/chat", {{"message", "still there?"}, {"max_tokens", 2}});
  const Json recent = Json::parse(one.client().Get("/dashboard/data")->body)["recent"];
  EXPECT_EQ(recent[1]["status"], 499);
}

TEST(Service, AFullQueueIsBusy) {
  ServerConfig config = free_ports();
  config.max_batch = 1;
  config.max_queue = 1;
  const MiniService one(config);
  RawConnection working(one.service.port()), waiting(one.service.port());
  send_endless(working, Delivered::kStreamed);
  ASSERT_TRUE(wait_until([&] { return one.service.stats().active == 1; }));
  send_endless(waiting, Delivered::kStreamed);
  ASSERT_TRUE(wait_until([&] { return one.service.stats().queued == 1; }));
  const auto busy =
      one.client().Post("/v1/completions", R"({"model": "mini", "prompt": "a"})", "application/json");
  ASSERT_TRUE(busy);
  EXPECT_EQ(busy->status, 503);
  EXPECT_EQ(busy->get_header_value("Retry-After"), "1");
  EXPECT_THAT(busy->body, HasSubstr("server busy"));
}

TEST(Service, KeysAreAskedForEverywhereButHealth) {
  ServerConfig config = free_ports();
  config.api_keys = {"secret-1", "secret-2"};
  const MiniService locked(config);
  auto client = locked.client();
  EXPECT_EQ(client.Get("/health")->status, 200);
  EXPECT_EQ(client.Get("/dashboard")->status, 200);
  for (const char* path : {"/v1/models", "/api/tags", "/metrics", "/dashboard/data"}) {
    EXPECT_EQ(client.Get(path)->status, 401) << path;
    EXPECT_EQ(client.Get(path, {{"Authorization", "Bearer wrong"}})->status, 401) << path;
    EXPECT_EQ(client.Get(path, {{"Authorization", "Bearer secret-2"}})->status, 200) << path;
    EXPECT_EQ(client.Get(path, {{"x-api-key", "secret-1"}})->status, 200) << path;
  }
  EXPECT_EQ(client.Get("/v1/models")->get_header_value("WWW-Authenticate"), "Bearer");
  EXPECT_EQ(client.Post("/chat", R"({"message": "x"})", "application/json")->status, 401);
  LoadTestOptions options;
  options.url = locked.service.url();
  options.requests_per_user = 1;
  options.max_new_tokens = 2;
  EXPECT_THROW(run_load_test(options), UsageError);
  options.api_key = "secret-1";
  EXPECT_EQ(run_load_test(options).errors, 0);
}

TEST(Service, SaysThatItLoads) {
  Service service(free_ports());
  service.start();
  httplib::Client client("127.0.0.1", service.port());
  const auto health = client.Get("/health");
  EXPECT_EQ(health->status, 503);
  EXPECT_EQ(Json::parse(health->body)["status"], "loading");
  const auto chat = client.Post("/chat", R"({"message": "x"})", "application/json");
  EXPECT_EQ(chat->status, 503);
  EXPECT_EQ(chat->get_header_value("Retry-After"), "1");
  EXPECT_EQ(client.Get("/metrics")->status, 200);
  EXPECT_EQ(client.Get("/dashboard/data")->status, 200);
}

TEST(Service, ATakenPortIsAnErrorThatNamesIt) {
  ServerConfig config = free_ports();
  config.ollama_port = mini().service.ollama_port();
  try {
    Service second(config);
    FAIL() << "two services on one port";
  } catch (const MachineError& error) {
    EXPECT_THAT(error.what(), HasSubstr(std::to_string(config.ollama_port)));
    EXPECT_THAT(error.what(), HasSubstr("server.ollama_port"));
  }
}

TEST(Service, LetsAnswersEndWhenItStops) {
  MiniService one;
  std::string body;
  std::thread user([&] {
    const Json request = {
        {"model", "mini"}, {"prompt", "a"}, {"raw", true}, {"options", {{"num_predict", 40}}}};
    const auto response = one.ollama().Post("/api/generate", dump(request), "application/json");
    if (response) body = response->body;
  });
  EXPECT_TRUE(wait_until([&] { return one.service.stats().generated_tokens > 0; }));
  one.service.stop(std::chrono::seconds(60));
  user.join();
  const auto lines = lines_of(body);
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines.back()["done"], true);
}

TEST(Service, CancelsAnswersWhenTheGraceIsOver) {
  MiniService one;
  RawConnection user(one.service.port());
  send_endless(user, Delivered::kStreamed);
  EXPECT_THAT(user.read("data: "), StartsWith("HTTP/1.1 200"));
  const Stopwatch watch;
  one.service.stop(std::chrono::seconds(0));
  EXPECT_LT(watch.seconds(), 10);
  EXPECT_THAT(user.read("no such text"),
              HasSubstr("data: {\"error\":{\"message\":\"the service is stopping"));
}

// How the CPU stores activations, and a GPU.
const ActivationFormat kOnCpu, kOnGpu{DeviceKind::kCuda, DType::kBF16, 64, uint64_t{32} << 20};

TEST(MemoryPlan, FitsOrSaysWhatWould) {
  ThreadPool threads(1);
  const LoadedModel loaded = load_chat_model("models/onggi-mini", {}, threads);
  ServerConfig config;
  EngineOptions options = plan_engine(config, *loaded.model, kOnCpu, kMemory);
  EXPECT_EQ(options.context_length, 2048);
  EXPECT_EQ(options.max_batch, 8);
  const uint64_t whole = options.kv_bytes;
  // Room for one context and a half: the batch shares it.
  const uint64_t base = loaded.model->weight_bytes + (uint64_t{512} << 20);
  options = plan_engine(config, *loaded.model, kOnCpu, base + whole / 8 * 3 / 2);
  EXPECT_EQ(options.context_length, 2048);
  EXPECT_EQ(options.kv_bytes, whole / 8 * 3 / 2);
  options = plan_engine(config, *loaded.model, kOnCpu, base + whole / 8 / 2);
  EXPECT_EQ(options.context_length, 1024);
  EXPECT_THROW(plan_engine(config, *loaded.model, kOnCpu, base), MachineError);
  config.context_length = 4096;
  EXPECT_THROW(plan_engine(config, *loaded.model, kOnCpu, kMemory), UsageError);
}

TEST(MemoryPlan, AGpuReadsAndWritesMoreAtOnceWhereThereIsRoom) {
  Model model;
  model.config = published_config("qwen3-8b");
  model.weight_bytes = uint64_t{5} << 30;
  const auto plan = [&](double gigabytes) {
    return plan_engine({}, model, kOnGpu, static_cast<uint64_t>(gigabytes * (1 << 30)));
  };
  const EngineOptions large = plan(80);
  EXPECT_EQ(large.max_batch, 64);
  EXPECT_EQ(large.prefill_chunk, 2048);
  EXPECT_EQ(large.context_length, 32768);
  EXPECT_EQ(large.kv_bytes, 8 * 1024 * KvCache::page_bytes(model.config, DType::kBF16));
  // Weights, cache and work fill what there is; a pass of 2112 tokens takes more than a pass of 320.
  const EngineOptions small = plan(12), smaller = plan(6.2);
  EXPECT_EQ(small.prefill_chunk, 2048);
  EXPECT_GT(small.kv_bytes, uint64_t{25} << 28);
  EXPECT_LT(small.kv_bytes, uint64_t{27} << 28);
  EXPECT_EQ(smaller.prefill_chunk, 256);
  EXPECT_GT(smaller.kv_bytes, uint64_t{3} << 28);
  EXPECT_THROW(plan(5.2), MachineError);
  ServerConfig explicit_batch;
  explicit_batch.max_batch = 2;
  explicit_batch.prefill_chunk = 100;
  const EngineOptions chosen = plan_engine(explicit_batch, model, kOnGpu, uint64_t{80} << 30);
  EXPECT_EQ(chosen.prefill_chunk, 100);
  EXPECT_EQ(chosen.kv_bytes, 2 * 1024 * KvCache::page_bytes(model.config, DType::kBF16));
}

}  // namespace
}  // namespace onggi

#include "serve/loadtest.h"

#include <httplib.h>

#include <atomic>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/clock.h"
#include "base/process.h"
#include "base/text.h"
#include "serve/fields.h"

namespace onggi {
namespace {

const std::vector<std::string> kPrompts = {
    "파이썬에서 리스트와 튜플의 차이를 설명해 주세요.",
    "How do I undo the last commit in git?",
    "도커 이미지와 컨테이너는 어떻게 다른가요?",
    "Explain gradient descent in two sentences.",
    "웹 서버에서 캐시는 왜 필요한가요?",
};

struct OneRequest {
  bool ok = false;
  std::string error;
  double first_token_s = 0, total_s = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;
};

httplib::Headers headers_of(const LoadTestOptions& options) {
  if (options.api_key.empty()) return {};
  return {{"Authorization", "Bearer " + options.api_key}};
}

std::unique_ptr<httplib::Client> make_client(const LoadTestOptions& options) {
  auto client = std::make_unique<httplib::Client>(options.url);
  if (!client->is_valid())
    throw UsageError(
        text("\"{}\" is not the URL of a service; give one such as http://127.0.0.1:8000", options.url));
  client->set_connection_timeout(std::chrono::seconds(5));
  client->set_read_timeout(options.timeout);
  client->set_tcp_nodelay(true);
  return client;
}

std::string served_model(const LoadTestOptions& options) {
  const auto client = make_client(options);
  const auto response = client->Get("/v1/models", headers_of(options));
  if (!response)
    throw InputError(text("no service answers at {} ({}); start it with onggi serve", options.url,
                          httplib::to_string(response.error())));
  if (response->status == 401)
    throw UsageError(text("the service at {} needs an API key (--api-key)", options.url));
  const Json body = Json::parse(response->body, nullptr, false);
  if (response->status != 200 || !body.is_object() || !body.contains("data") || !body["data"].is_array() ||
      body["data"].empty())
    throw InputError(text("the service at {} answers status {} to /v1/models; is its model loaded?",
                          options.url, response->status));
  return body["data"][0].value("id", "");
}

// Servers differ in whether an empty piece is absent, null or "".
bool has_text(const Json& delta, const char* name) {
  return delta.contains(name) && delta[name].is_string() &&
         !delta[name].get_ref<const std::string&>().empty();
}

// What one event of a chat stream says.
void read_event(const std::string& data, const Stopwatch& watch, OneRequest& request) {
  if (data == "[DONE]") {
    request.ok = request.error.empty();
    return;
  }
  const Json event = Json::parse(data, nullptr, false);
  if (!event.is_object()) {
    request.error = text("the service sent an event that is no JSON");
    return;
  }
  if (event.contains("error"))
    request.error = event["error"].is_object() ? event["error"].value("message", "error") : "error";
  if (event.contains("usage") && event["usage"].is_object()) {
    request.prompt_tokens = event["usage"].value("prompt_tokens", int64_t{0});
    request.generated_tokens = event["usage"].value("completion_tokens", int64_t{0});
  }
  if (request.first_token_s > 0 || !event.contains("choices")) return;
  for (const Json& choice : event["choices"]) {
    if (!choice.contains("delta") || !choice["delta"].is_object()) continue;
    const Json& delta = choice["delta"];
    if (has_text(delta, "content") || has_text(delta, "reasoning_content"))
      request.first_token_s = watch.seconds();
  }
}

OneRequest ask(httplib::Client& client, const LoadTestOptions& options, const std::string& model,
               const std::string& prompt) {
  const Json body = {{"model", model},
                     {"messages", Json::array({{{"role", "user"}, {"content", prompt}}})},
                     {"max_tokens", options.max_new_tokens},
                     {"stream", true},
                     {"stream_options", {{"include_usage", true}}}};
  OneRequest request;
  const Stopwatch watch;
  SseReader reader([&](const std::string& data) { read_event(data, watch, request); });
  httplib::Request http;
  http.method = "POST";
  http.path = "/v1/chat/completions";
  http.headers = headers_of(options);
  http.headers.emplace("Content-Type", "application/json");
  http.body = dump(body);
  std::string refused;
  int status = 0;
  http.response_handler = [&](const httplib::Response& response) {
    status = response.status;
    return true;
  };
  http.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
    if (status == 200)
      reader.push(data, size);
    else
      refused.append(data, std::min<size_t>(size, 1000));
    return true;
  };
  const auto response = client.send(http);
  request.total_s = watch.seconds();
  if (!response)
    request.error = httplib::to_string(response.error());
  else if (status != 200)
    request.error = fmt::format("HTTP {}: {}", status, refused);
  else if (!request.ok && request.error.empty())
    request.error = text("the stream ended before [DONE]");
  request.ok = request.ok && request.error.empty();
  return request;
}

LoadTestResult summarise(const std::vector<OneRequest>& requests) {
  LoadTestResult result;
  std::vector<double> first_token, total, rate;
  for (const OneRequest& request : requests) {
    ++result.requests;
    if (!request.ok) {
      if (result.errors++ == 0) result.first_error = request.error;
      continue;
    }
    result.prompt_tokens += request.prompt_tokens;
    result.generated_tokens += request.generated_tokens;
    total.push_back(request.total_s);
    if (request.first_token_s > 0) first_token.push_back(request.first_token_s);
    const double writing = request.total_s - request.first_token_s;
    if (request.first_token_s > 0 && request.generated_tokens > 1 && writing > 0)
      rate.push_back(static_cast<double>(request.generated_tokens - 1) / writing);
  }
  result.first_token_s = percentiles_of(std::move(first_token));
  result.total_s = percentiles_of(std::move(total));
  result.per_user_tokens_per_s = percentiles_of(std::move(rate));
  return result;
}

}  // namespace

void SseReader::push(const char* bytes, size_t size) {
  pending_.append(bytes, size);
  for (size_t end = pending_.find("\n\n"); end != std::string::npos; end = pending_.find("\n\n")) {
    constexpr std::string_view kData = "data: ";
    if (pending_.starts_with(kData)) on_data_(pending_.substr(kData.size(), end - kData.size()));
    pending_.erase(0, end + 2);
  }
}

LoadTestResult run_load_test(const LoadTestOptions& options) {
  if (options.users < 1 || options.users > 1024 || options.requests_per_user < 1 ||
      options.max_new_tokens < 1)
    throw UsageError(
        text("a load test needs 1 to 1024 users, at least one request each and one token per answer"));
  const std::string model = served_model(options);
  const std::vector<std::string>& prompts = options.prompts.empty() ? kPrompts : options.prompts;
  std::mutex mutex;
  std::vector<OneRequest> requests;
  std::atomic<size_t> next_prompt{0};
  const Stopwatch watch;
  std::vector<std::thread> users;
  for (int64_t user = 0; user < options.users; ++user)
    users.emplace_back([&] {
      const auto client = make_client(options);
      for (int64_t i = 0; i < options.requests_per_user && !stop_requested(); ++i) {
        OneRequest request;
        try {
          request = ask(*client, options, model, prompts[next_prompt++ % prompts.size()]);
        } catch (const std::exception& error) {  // an answer of another shape than OpenAI's
          request.error = error.what();
        }
        const std::lock_guard lock(mutex);
        requests.push_back(std::move(request));
      }
    });
  for (std::thread& user : users) user.join();
  LoadTestResult result = summarise(requests);
  result.users = options.users;
  result.seconds = watch.seconds();
  if (result.seconds > 0) result.tokens_per_s = static_cast<double>(result.generated_tokens) / result.seconds;
  return result;
}

std::string to_json(const LoadTestResult& result) {
  const auto percentiles = [](const Percentiles& values) {
    return Json{{"count", values.count}, {"p50", values.p50}, {"p95", values.p95}, {"p99", values.p99}};
  };
  return dump({{"users", result.users},
               {"requests", result.requests},
               {"errors", result.errors},
               {"first_error", result.first_error},
               {"seconds", result.seconds},
               {"prompt_tokens", result.prompt_tokens},
               {"generated_tokens", result.generated_tokens},
               {"tokens_per_s", result.tokens_per_s},
               {"first_token_s", percentiles(result.first_token_s)},
               {"total_s", percentiles(result.total_s)},
               {"per_user_tokens_per_s", percentiles(result.per_user_tokens_per_s)}});
}

}  // namespace onggi

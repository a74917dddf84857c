#include "serve/chat_client.h"

#include <httplib.h>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/text.h"
#include "serve/access.h"

namespace onggi {
namespace {

httplib::Headers headers_of(const ServiceAddress& address) {
  if (address.api_key.empty()) return {};
  return {{"Authorization", "Bearer " + address.api_key}};
}

// "https://127.0.0.1:8000/" -> "127.0.0.1"
std::string host_of(const std::string& url) {
  const size_t begin = url.find("://");
  const std::string authority = url.substr(begin == std::string::npos ? 0 : begin + 3);
  if (authority.starts_with('[')) return authority.substr(0, authority.find(']') + 1);
  return authority.substr(0, authority.find_first_of(":/"));
}

// Servers differ in whether an empty piece is absent, null or "".
std::string text_at(const Json& delta, const char* name) {
  const auto found = delta.find(name);
  return found != delta.end() && found->is_string() ? found->get<std::string>() : "";
}

// Gathers the events of one stream.
class ReplyReader {
 public:
  ReplyReader(ChatReply& reply, const OnChatText& on_text) : reply_(reply), on_text_(on_text) {}

  void read(const std::string& data) {
    if (data == "[DONE]") {
      reply_.ok = reply_.error.empty();
      return;
    }
    const Json event = Json::parse(data, nullptr, false);
    if (!event.is_object()) {
      reply_.error = text("the service sent an event that is no JSON");
      return;
    }
    if (event.contains("error"))
      reply_.error = event["error"].is_object() ? event["error"].value("message", "error") : "error";
    if (event.contains("usage") && event["usage"].is_object()) read_usage(event["usage"]);
    if (!event.contains("choices") || !event["choices"].is_array()) return;
    for (const Json& choice : event["choices"]) read_choice(choice);
  }
  bool wanted() const { return wanted_; }
  double seconds() const { return watch_.seconds(); }

 private:
  void read_usage(const Json& usage) {
    reply_.prompt_tokens = usage.value("prompt_tokens", int64_t{0});
    reply_.generated_tokens = usage.value("completion_tokens", int64_t{0});
    const Json details = usage.value("prompt_tokens_details", Json());
    if (details.is_object()) reply_.cached_tokens = details.value("cached_tokens", int64_t{0});
  }
  void read_choice(const Json& choice) {
    if (const std::string reason = text_at(choice, "finish_reason"); !reason.empty())
      reply_.finish_reason = reason;
    if (!choice.contains("delta") || !choice["delta"].is_object()) return;
    const Json& delta = choice["delta"];
    const std::string content = text_at(delta, "content");
    std::string reasoning = text_at(delta, "reasoning_content");
    if (reasoning.empty()) reasoning = text_at(delta, "reasoning");
    if (content.empty() && reasoning.empty()) return;
    if (reply_.first_token_s == 0) reply_.first_token_s = watch_.seconds();
    reply_.content += content;
    reply_.reasoning += reasoning;
    wanted_ = wanted_ && (!on_text_ || on_text_(reasoning, content));
  }

  ChatReply& reply_;
  const OnChatText& on_text_;
  Stopwatch watch_;
  bool wanted_ = true;
};

}  // namespace

std::unique_ptr<httplib::Client> make_client(const ServiceAddress& address) {
  auto client = std::make_unique<httplib::Client>(address.url);
  if (!client->is_valid())
    throw UsageError(
        text("\"{}\" is not the URL of a service; give one such as http://127.0.0.1:8000", address.url));
  client->set_connection_timeout(std::chrono::seconds(5));
  client->set_read_timeout(address.timeout);
  client->set_tcp_nodelay(true);
  if (is_loopback(host_of(address.url))) client->enable_server_certificate_verification(false);
  return client;
}

std::string served_model(const ServiceAddress& address) {
  const auto client = make_client(address);
  const auto response = client->Get("/v1/models", headers_of(address));
  if (!response)
    throw InputError(text("no service answers at {} ({}); start it with onggi serve", address.url,
                          httplib::to_string(response.error())));
  if (response->status == 401)
    throw UsageError(text("the service at {} needs an API key (--api-key)", address.url));
  const Json body = Json::parse(response->body, nullptr, false);
  if (response->status != 200 || !body.is_object() || !body.contains("data") || !body["data"].is_array() ||
      body["data"].empty() || !body["data"][0].is_object())
    throw InputError(text("the service at {} answers status {} to /v1/models; is its model loaded?",
                          address.url, response->status));
  return text_at(body["data"][0], "id");
}

ChatReply ask_service(httplib::Client& client, const ServiceAddress& address, Json request,
                      const OnChatText& on_text) {
  request["stream"] = true;
  request["stream_options"] = {{"include_usage", true}};
  ChatReply reply;
  ReplyReader reader(reply, on_text);
  SseReader events([&](const std::string& data) { reader.read(data); });
  httplib::Request http;
  http.method = "POST";
  http.path = "/v1/chat/completions";
  http.headers = headers_of(address);
  http.headers.emplace("Content-Type", "application/json");
  http.body = dump(request);
  std::string refused;
  http.response_handler = [&](const httplib::Response& response) {
    reply.status = response.status;
    return true;
  };
  http.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
    try {
      if (reply.status == 200)
        events.push(data, size);
      else
        refused.append(data, std::min<size_t>(size, 1000));
    } catch (const Json::exception& error) {  // an answer of another shape than OpenAI's
      reply.error = error.what();
      return false;
    }
    return reader.wanted();
  };
  const auto response = client.send(http);
  reply.total_s = reader.seconds();
  if (!reader.wanted()) {
    reply.finish_reason = "cancelled";
    reply.ok = reply.error.empty();
    return reply;
  }
  if (reply.error.empty()) {
    if (!response)
      reply.error = httplib::to_string(response.error());
    else if (reply.status != 200)
      reply.error = fmt::format("HTTP {}: {}", reply.status, refused);
    else if (!reply.ok)
      reply.error = text("the stream ended before [DONE]");
  }
  reply.ok = reply.ok && reply.error.empty();
  return reply;
}

void SseReader::push(const char* bytes, size_t size) {
  pending_.append(bytes, size);
  size_t begin = 0;
  for (size_t end = pending_.find('\n'); end != std::string::npos; end = pending_.find('\n', begin)) {
    std::string_view line(pending_.data() + begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    read_line(line);
    begin = end + 1;
  }
  pending_.erase(0, begin);
}

// Fields besides "data", and comments, say nothing that matters here.
void SseReader::read_line(std::string_view line) {
  constexpr std::string_view kField = "data:";
  if (line.empty()) {
    if (has_data_) on_data_(data_);
    data_.clear();
    has_data_ = false;
  } else if (line.starts_with(kField)) {
    line.remove_prefix(kField.size());
    if (line.starts_with(' ')) line.remove_prefix(1);
    if (has_data_) data_ += '\n';
    data_ += line;
    has_data_ = true;
  }
}

}  // namespace onggi

// A client of OpenAI's chat API with streaming: what the load test and the terminal's chat speak to a running
// service.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "serve/fields.h"

namespace httplib {
class Client;
}

namespace onggi {

struct ServiceAddress {
  std::string url;                    // "http://127.0.0.1:8000" or https
  std::string api_key;                // empty: none
  std::chrono::seconds timeout{600};  // per request
};

// Throws UsageError where the URL is none. The certificate of a service on this machine is not checked: it
// names the public host, and nobody stands between.
std::unique_ptr<httplib::Client> make_client(const ServiceAddress& address);

// The first model that the service has. Throws InputError where no service answers, UsageError where it asks
// for another key.
std::string served_model(const ServiceAddress& address);

struct ChatReply {
  bool ok = false;
  std::string error;  // where not ok
  int status = 0;     // HTTP; 0: no answer
  std::string content, reasoning, finish_reason;
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  double first_token_s = 0, total_s = 0;  // from sending; first_token_s 0: no text came
};
// Called with each piece of reasoning or content; false ends the answer.
using OnChatText = std::function<bool(const std::string& reasoning, const std::string& content)>;
// Asks with `request`, a body of /v1/chat/completions; stream and stream_options are set here. What goes
// wrong is told in the reply.
ChatReply ask_service(httplib::Client& client, const ServiceAddress& address, Json request,
                      const OnChatText& on_text);

// The data of server-sent events, from bytes that arrive in pieces: calls on_data for each event's data.
class SseReader {
 public:
  explicit SseReader(std::function<void(const std::string&)> on_data) : on_data_(std::move(on_data)) {}
  void push(const char* bytes, size_t size);

 private:
  void read_line(std::string_view line);

  std::function<void(const std::string&)> on_data_;
  std::string pending_;  // the beginning of a line
  std::string data_;     // of the event that is being read
  bool has_data_ = false;
};

}  // namespace onggi

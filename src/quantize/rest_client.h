// A small HTTP client for Ollama's REST API, over libcurl.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/file.h"

namespace onggi {

struct RestRequest {
  enum class Method { kGet, kHead, kPost };
  Method method = Method::kGet;
  std::string path = {};  // "/api/version"
  std::string body = {};  // JSON
  fs::path file = {};     // sent as the body instead, streamed
  // Gets each line of the answer as it arrives; without it the answer is kept in RestAnswer::body.
  std::function<void(std::string_view)> on_line = {};
  std::function<void(uint64_t, uint64_t)> on_sent = {};  // bytes of the file sent so far, and in all
  double stall_seconds = 60;                             // give up after so long without a byte
};

struct RestAnswer {
  bool reached = false;  // false: no server, or the connection broke; see `trouble`
  long status = 0;
  std::string body;  // at most 1 MB
  std::string trouble;
};

class RestClient {
 public:
  // `url` as "http://host:port".
  explicit RestClient(std::string url);
  RestClient(const RestClient&) = delete;
  RestClient& operator=(const RestClient&) = delete;
  ~RestClient();

  // Throws what the callbacks throw, and InputError when the file cannot be read; nothing else.
  RestAnswer perform(const RestRequest& request);

 private:
  std::string url_;
  void* curl_;
};

}  // namespace onggi

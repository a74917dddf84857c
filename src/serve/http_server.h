// Transport: an HTTP/1.1 server that hands requests to one function. Knows nothing of models or dialects.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace onggi {

struct HttpRequest {
  std::string method;  // upper case
  std::string path;    // decoded, without the query
  std::map<std::string, std::string> query;
  std::map<std::string, std::string> headers;  // names in lower case; the first of several
  std::string body;
  std::string id;              // X-Request-Id, the client's own where it is well formed
  std::string remote_address;  // without the port
  // True once the client has closed its end; cheap enough to be asked every few milliseconds.
  std::function<bool()> client_gone;

  // "" where there is no such header; name in lower case.
  const std::string& header(const std::string& name) const;
};

// Sends a piece of a streamed body; false once the client is gone, and then for good.
using StreamWriter = std::function<bool(std::string_view)>;

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
  // Where set, the body is what this writes (chunked transfer), and `body` is not sent. Called once, after
  // the headers went out; an exception ends the connection.
  std::function<void(const StreamWriter&)> stream;
};

struct HttpServerOptions {
  std::string name;  // for messages: "HTTP API"
  std::string host = "127.0.0.1";
  int port = 0;               // 0: any free port
  std::string port_setting;   // what to change when the port is taken: "--port or server.port"
  int max_connections = 128;  // handled at once, one thread each; more are answered 503
  uint64_t max_body_bytes = 16 << 20;
  std::string tls_certificate, tls_key;   // PEM files; empty: plain HTTP
  std::chrono::seconds read_timeout{30};  // between two pieces of a request
  std::chrono::seconds write_timeout{30};
  std::chrono::seconds keep_alive{15};
};

struct HttpHandlers {
  // Sees method, path, query and headers before the body is read; an answer here is final.
  std::function<std::optional<HttpResponse>(const HttpRequest&)> admit;
  std::function<HttpResponse(const HttpRequest&)> handle;
  // The body of an error that transport itself answers (400, 408, 413, 414, 500, 503), in the dialect of the
  // path.
  std::function<std::string(const std::string& path, int status, const std::string& message)> error_body;
};

class HttpServer {
 public:
  // Binds at once. Throws MachineError naming the port and what to do when it cannot be used, InputError
  // where certificate or key cannot.
  HttpServer(HttpServerOptions options, HttpHandlers handlers);
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  ~HttpServer();

  int port() const;
  // Accepts connections on a thread of its own until stop().
  void start();
  // No new connections from now on; requests in work go on.
  void stop_accepting();
  // Waits for requests in work, which end by themselves (the engine cancels them), and joins all threads.
  void stop();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace onggi

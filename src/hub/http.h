// One HTTP request with libcurl, redirects followed by hand so that each hop's headers are seen and the token
// stays with the host that it belongs to.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>

namespace onggi::hub {

// No complete answer came: refused, timed out, broken off.
class TransportFailure : public std::runtime_error {
 public:
  enum class Kind {
    kTransient,
    kFatal
  };  // fatal: trying again cannot help (a bad certificate, a bad address)
  TransportFailure(Kind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  bool transient() const { return kind_ == Kind::kTransient; }

 private:
  Kind kind_;
};

// The caller's should_stop() said so.
class RequestStopped : public std::runtime_error {
 public:
  RequestStopped() : std::runtime_error("stopped") {}
};

struct HttpResponse {
  long status = 0;
  std::map<std::string, std::string> headers;  // names in lower case; of the last response
  std::string body;                            // empty where a sink took it; at most max_body_bytes
  std::string url;                             // after redirects

  std::string header(const std::string& lower_case_name) const;
};

struct HttpRequest {
  enum class Method { kGet, kHead };
  // kToOtherHosts: follow all. kWithinHost: stop at a redirect that leaves the host and return it (the hub's
  // metadata headers are on that response, not on the CDN's).
  enum class Redirects { kToOtherHosts, kWithinHost };

  Method method = Method::kGet;
  Redirects redirects = Redirects::kToOtherHosts;
  std::string url;
  std::string token;         // sent to the host of `url` alone
  uint64_t range_start = 0;  // above 0: "Range: bytes={range_start}-"
  uint64_t max_body_bytes = 64 << 20;
  // Called with the status and headers of a 200 or 206 before its first body byte; then `sink` gets the body.
  std::function<void(const HttpResponse&)> on_success;
  std::function<void(std::string_view)> sink;
  std::function<bool()> should_stop;
};

struct HttpTimeouts {
  double connect_seconds = 10;
  double stall_seconds = 30;  // without a byte
};

// Keeps connections between requests; one thread at a time.
class HttpClient {
 public:
  explicit HttpClient(const HttpTimeouts& timeouts);
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  ~HttpClient();

  // Any status is a result. Throws TransportFailure, RequestStopped, and what the callbacks throw.
  HttpResponse perform(const HttpRequest& request);

 private:
  HttpResponse perform_once(const HttpRequest& request, const std::string& url, const std::string& token);

  void* curl_;
  HttpTimeouts timeouts_;
};

// "https://host:port" of an address with the default port filled in; "" where it is no http(s) address.
std::string origin_of(const std::string& url);
// A Location header's address, resolved against the address that sent it.
std::string resolve_location(const std::string& base, const std::string& location);
// Percent-encodes the segments of a path; slashes stay.
std::string encode_path(std::string_view path);

}  // namespace onggi::hub

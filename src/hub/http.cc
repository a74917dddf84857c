#include "hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <exception>
#include <memory>
#include <mutex>

#include "base/error.h"

namespace onggi::hub {

namespace {

constexpr int kMostRedirects = 8;
constexpr uint64_t kLargestHeaders = 1 << 20;

// What libcurl's callbacks work on. They are called from C, so exceptions wait here until the call is over.
struct Transfer {
  const HttpRequest* request = nullptr;
  HttpResponse response;
  uint64_t header_bytes = 0;
  bool announced = false;
  std::exception_ptr failure;
  bool stopped = false;

  bool succeeded() const { return response.status == 200 || response.status == 206; }
};

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return text;
}

size_t on_header(const char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const std::string_view line(data, size * count);
  transfer.header_bytes += line.size();
  if (transfer.header_bytes > kLargestHeaders) return 0;
  if (line.starts_with("HTTP/")) {  // a new response: "100 Continue" may come before the real one
    transfer.response.headers.clear();
    const size_t space = line.find(' ');
    transfer.response.status =
        space == std::string_view::npos ? 0 : std::atol(std::string(line.substr(space)).c_str());
  } else if (const size_t colon = line.find(':'); colon != std::string_view::npos) {
    transfer.response.headers[lower(line.substr(0, colon))] = trimmed(line.substr(colon + 1));
  }
  return size * count;
}

size_t on_body(const char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const std::string_view bytes(data, size * count);
  try {
    if (!transfer.succeeded() || !transfer.request->sink) {
      if (transfer.response.body.size() + bytes.size() > transfer.request->max_body_bytes) {
        throw TransportFailure(TransportFailure::Kind::kFatal, "the answer is too large");
      }
      transfer.response.body += bytes;
      return bytes.size();
    }
    if (!transfer.announced && transfer.request->on_success) transfer.request->on_success(transfer.response);
    transfer.announced = true;
    transfer.request->sink(bytes);
    return bytes.size();
  } catch (...) {
    transfer.failure = std::current_exception();
    return CURL_WRITEFUNC_ERROR;
  }
}

int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  auto& transfer = *static_cast<Transfer*>(user);
  transfer.stopped = transfer.request->should_stop && transfer.request->should_stop();
  return transfer.stopped ? 1 : 0;
}

bool is_transient(CURLcode code) {
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_OUT_OF_MEMORY:
      return false;
    default:
      return true;
  }
}

bool is_redirect(const HttpResponse& response) {
  const long s = response.status;
  return (s == 301 || s == 302 || s == 303 || s == 307 || s == 308) && !response.header("location").empty();
}

std::string url_part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return "";
  std::string out = text;
  curl_free(text);
  return out;
}

using UrlPointer = std::unique_ptr<CURLU, decltype(&curl_url_cleanup)>;

}  // namespace

std::string HttpResponse::header(const std::string& lower_case_name) const {
  const auto found = headers.find(lower_case_name);
  return found == headers.end() ? "" : found->second;
}

std::string origin_of(const std::string& url) {
  const UrlPointer parsed(curl_url(), curl_url_cleanup);
  if (curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return "";
  const std::string scheme = url_part(parsed.get(), CURLUPART_SCHEME);
  if (scheme != "http" && scheme != "https") return "";
  return scheme + "://" + lower(url_part(parsed.get(), CURLUPART_HOST)) + ":" +
         url_part(parsed.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

std::string resolve_location(const std::string& base, const std::string& location) {
  const UrlPointer parsed(curl_url(), curl_url_cleanup);
  if (curl_url_set(parsed.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK) return "";
  if (curl_url_set(parsed.get(), CURLUPART_URL, location.c_str(), CURLU_URLENCODE) != CURLUE_OK) return "";
  return url_part(parsed.get(), CURLUPART_URL);
}

std::string encode_path(std::string_view path) {
  std::string out;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80 &&
        (std::isalnum(byte) != 0 || std::string_view("-_.~/").find(c) != std::string_view::npos)) {
      out += c;
    } else {
      constexpr std::string_view kDigits = "0123456789ABCDEF";
      out += '%', out += kDigits[byte >> 4], out += kDigits[byte & 15];
    }
  }
  return out;
}

HttpClient::HttpClient(const HttpTimeouts& timeouts) : timeouts_(timeouts) {
  static std::once_flag once;  // libcurl's own set-up, once per process
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  curl_ = curl_easy_init();
  ONGGI_CHECK(curl_ != nullptr, "libcurl gives no handle");
}

HttpClient::~HttpClient() { curl_easy_cleanup(curl_); }

HttpResponse HttpClient::perform(const HttpRequest& request) {
  const std::string home = origin_of(request.url);
  if (home.empty()) {
    throw TransportFailure(TransportFailure::Kind::kFatal, "\"" + request.url + "\" is no http(s) address");
  }
  std::string url = request.url;
  for (int hop = 0; hop <= kMostRedirects; ++hop) {
    const bool at_home = origin_of(url) == home;
    HttpResponse response = perform_once(request, url, at_home ? request.token : "");
    if (!is_redirect(response)) return response;
    const std::string next = resolve_location(url, response.header("location"));
    const std::string next_origin = origin_of(next);
    if (next_origin.empty() || (url.starts_with("https:") && next.starts_with("http:"))) {
      throw TransportFailure(TransportFailure::Kind::kFatal,
                             url + " redirects to an unsafe address: " + response.header("location"));
    }
    if (request.redirects == HttpRequest::Redirects::kWithinHost && next_origin != home) return response;
    url = next;
  }
  throw TransportFailure(TransportFailure::Kind::kFatal, request.url + " redirects without end");
}

HttpResponse HttpClient::perform_once(const HttpRequest& request, const std::string& url,
                                      const std::string& token) {
  CURL* curl = curl_;
  curl_easy_reset(curl);  // options go, connections stay
  Transfer transfer;
  transfer.request = &request;
  transfer.response.url = url;

  curl_slist* list = nullptr;
  const auto add_header = [&](const std::string& line) { list = curl_slist_append(list, line.c_str()); };
  add_header("Accept-Encoding: identity");  // sizes and hashes are of the bytes as they are
  if (!token.empty()) add_header("Authorization: Bearer " + token);
  if (request.range_start > 0) add_header("Range: bytes=" + std::to_string(request.range_start) + "-");
  const std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)> headers(list, curl_slist_free_all);

  curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "onggi/0.1");
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_NOBODY, request.method == HttpRequest::Method::kHead ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(timeouts_.connect_seconds * 1000));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, std::max(1L, static_cast<long>(timeouts_.stall_seconds)));
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);

  const CURLcode code = curl_easy_perform(curl);
  if (transfer.failure) std::rethrow_exception(transfer.failure);
  if (transfer.stopped) throw RequestStopped();
  if (code != CURLE_OK) {
    throw TransportFailure(
        is_transient(code) ? TransportFailure::Kind::kTransient : TransportFailure::Kind::kFatal,
        origin_of(url) + ": " + curl_easy_strerror(code));
  }
  // An empty success still has headers that the caller waits for.
  if (transfer.succeeded() && !transfer.announced && request.on_success &&
      request.method == HttpRequest::Method::kGet) {
    request.on_success(transfer.response);
  }
  return std::move(transfer.response);
}

}  // namespace onggi::hub

#include "quantize/rest_client.h"

#include <curl/curl.h>

#include <cstdio>
#include <exception>
#include <memory>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

constexpr size_t kMaxBodyBytes = size_t{1} << 20;
constexpr long kConnectSeconds = 5;

// What the callbacks of one request share. An exception must not pass through libcurl's frames: it is kept
// here.
struct Exchange {
  const RestRequest& request;
  RestAnswer& answer;
  std::FILE* file = nullptr;
  uint64_t file_bytes = 0;
  uint64_t sent = 0;
  std::string line = {};
  std::exception_ptr error = nullptr;
};

void take_lines(Exchange& exchange, std::string_view bytes) {
  for (size_t end; (end = bytes.find('\n')) != std::string_view::npos; bytes.remove_prefix(end + 1)) {
    exchange.line += bytes.substr(0, end);
    if (!exchange.line.empty()) exchange.request.on_line(exchange.line);
    exchange.line.clear();
  }
  exchange.line += bytes;
}

size_t on_body(char* data, size_t size, size_t count, void* user) {
  Exchange& exchange = *static_cast<Exchange*>(user);
  const size_t bytes = size * count;
  try {
    // Until the status is known to be good an error's text is what the body holds; keep both.
    if (exchange.answer.body.size() + bytes <= kMaxBodyBytes) exchange.answer.body.append(data, bytes);
    if (exchange.request.on_line) {
      take_lines(exchange, {data, bytes});
      if (exchange.line.size() > kMaxBodyBytes) return 0;  // no JSON line is that long
    }
  } catch (...) {
    exchange.error = std::current_exception();
    return 0;
  }
  return bytes;
}

size_t on_read(char* data, size_t size, size_t count, void* user) {
  Exchange& exchange = *static_cast<Exchange*>(user);
  const size_t bytes = std::fread(data, 1, size * count, exchange.file);
  exchange.sent += bytes;
  try {
    if (exchange.request.on_sent) exchange.request.on_sent(exchange.sent, exchange.file_bytes);
  } catch (...) {
    exchange.error = std::current_exception();
    return CURL_READFUNC_ABORT;
  }
  return bytes;
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
struct FreeList {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

}  // namespace

RestClient::RestClient(std::string url) : url_(std::move(url)), curl_(curl_easy_init()) {
  if (curl_ == nullptr) throw MachineError(text("libcurl cannot start"));
}

RestClient::~RestClient() { curl_easy_cleanup(static_cast<CURL*>(curl_)); }

RestAnswer RestClient::perform(const RestRequest& request) {
  CURL* curl = static_cast<CURL*>(curl_);
  RestAnswer answer;
  Exchange exchange{request, answer};
  curl_easy_reset(curl);
  curl_easy_setopt(curl, CURLOPT_URL, (url_ + request.path).c_str());
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_NOPROXY, "localhost,127.0.0.1,::1");
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, static_cast<long>(request.stall_seconds));
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &exchange);
  if (request.method == RestRequest::Method::kHead) curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);

  std::unique_ptr<std::FILE, CloseFile> file;
  std::unique_ptr<curl_slist, FreeList> headers;
  if (request.method == RestRequest::Method::kPost) {
    const char* type =
        request.file.empty() ? "Content-Type: application/json" : "Content-Type: application/octet-stream";
    headers.reset(curl_slist_append(curl_slist_append(nullptr, type), "Expect:"));
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    if (request.file.empty()) {
      curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request.body.data());
      curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(request.body.size()));
    } else {
      file.reset(std::fopen(request.file.c_str(), "rb"));
      std::error_code error;
      exchange.file_bytes = fs::file_size(request.file, error);
      if (file == nullptr || error) throw InputError(text("cannot read {}", request.file.string()));
      exchange.file = file.get();
      curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_read);
      curl_easy_setopt(curl, CURLOPT_READDATA, &exchange);
      curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(exchange.file_bytes));
    }
  }
  const CURLcode code = curl_easy_perform(curl);
  if (exchange.error) std::rethrow_exception(exchange.error);
  if (code == CURLE_OK && request.on_line && !exchange.line.empty()) request.on_line(exchange.line);
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
  answer.reached = code == CURLE_OK;
  if (code != CURLE_OK) answer.trouble = curl_easy_strerror(code);
  return answer;
}

}  // namespace onggi

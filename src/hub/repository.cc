#include "hub/repository.h"

#include <curl/curl.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/text.h"
#include "hub/cache.h"

namespace onggi::hub {

namespace {

using nlohmann::json;

constexpr double kLongestPause = 30;
constexpr double kLongestRetryAfter = 300;
constexpr uint64_t kLargestFile = 1'000'000'000'000'000;  // bytes; also keeps sums of sizes from overflowing

// An ETag header without its quotes and weakness mark.
std::string bare_etag(std::string etag) {
  if (etag.starts_with("W/")) etag.erase(0, 2);
  if (etag.size() >= 2 && etag.front() == '"' && etag.back() == '"') etag = etag.substr(1, etag.size() - 2);
  return etag;
}

std::optional<uint64_t> parse_size(const std::string& digits) {
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::stoull(digits);
}

std::string string_at(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::optional<uint64_t> size_at(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_unsigned()) return std::nullopt;
  return found->get<uint64_t>();
}

RemoteFile parse_sibling(const json& sibling) {
  RemoteFile file;
  file.name = string_at(sibling, "rfilename");
  file.size = size_at(sibling, "size");
  file.etag = string_at(sibling, "blobId");
  if (const auto lfs = sibling.find("lfs"); lfs != sibling.end() && lfs->is_object()) {
    file.etag = string_at(*lfs, "sha256");
    if (const auto size = size_at(*lfs, "size")) file.size = size;
  }
  return file;
}

// Tries until a status that does not pass by itself.
HttpResponse perform_with_retries(HttpClient& client, const RemoteAddress& address,
                                  const HttpRequest& request) {
  // A question is asked before anything is under way: with no network people should hear so soon.
  constexpr int kMostRetries = 2;
  Retry retry(address.options, std::min(address.options.max_retries, kMostRetries), address.should_stop);
  while (true) {
    std::string problem;
    double pause = 0;
    try {
      HttpResponse response = client.perform(request);
      if (!is_transient_status(response.status)) return response;
      problem = text("{} answers with status {}", origin_of(request.url), response.status);
      pause = retry_after_seconds(response);
    } catch (const TransportFailure& failure) {
      if (!failure.transient()) throw HubUnreachable(failure.what());
      problem = failure.what();
    }
    retry.wait(problem, pause);
  }
}

}  // namespace

RemoteModel parse_remote_model(const std::string& text_of_json) {
  const json answer = json::parse(text_of_json, nullptr, /*allow_exceptions=*/false);
  RemoteModel model;
  if (answer.is_object()) model.commit = string_at(answer, "sha");
  const auto siblings = answer.is_object() ? answer.find("siblings") : answer.end();
  if (!is_commit(model.commit) || siblings == answer.end() || !siblings->is_array()) {
    throw InputError(text("the hub's answer does not describe a model: check HF_ENDPOINT"));
  }
  for (const json& sibling : *siblings) {
    if (!sibling.is_object()) continue;
    RemoteFile file = parse_sibling(sibling);
    if (is_file_name(file.name)) model.files.push_back(std::move(file));
  }
  return model;
}

bool is_needed_file(std::string_view name) {
  if (name.find('/') != std::string_view::npos) return false;  // onnx/, original/: other programs' forms
  if (name.starts_with("consolidated")) return false;          // the weights again, in another layout
  return name.ends_with(".safetensors") || name.ends_with(".json") || name.ends_with(".txt") ||
         name.ends_with(".jinja");
}

std::string RemoteAddress::resolve_url(const std::string& commit, const std::string& file) const {
  return options.endpoint + "/" + encode_path(id) + "/resolve/" + commit + "/" + encode_path(file);
}

RemoteModel query_model(HttpClient& client, const RemoteAddress& address) {
  // A revision is one segment there: the slash of "refs/pr/1" is written %2F.
  std::string revision = encode_path(address.revision);
  for (size_t slash; (slash = revision.find('/')) != std::string::npos;) revision.replace(slash, 1, "%2F");
  HttpRequest request;
  request.url = address.options.endpoint + "/api/models/" + encode_path(address.id) + "/revision/" +
                revision + "?blobs=true";
  request.token = address.options.token;
  request.should_stop = address.should_stop;
  const HttpResponse response = perform_with_retries(client, address, request);
  if (response.status != 200) throw_status_error(response, address, "");
  return parse_remote_model(response.body);
}

RemoteFile query_file(HttpClient& client, const RemoteAddress& address, const std::string& commit,
                      RemoteFile file) {
  HttpRequest request;
  request.method = HttpRequest::Method::kHead;
  request.redirects = HttpRequest::Redirects::kWithinHost;
  request.url = address.resolve_url(commit, file.name);
  request.token = address.options.token;
  request.should_stop = address.should_stop;
  const HttpResponse response = perform_with_retries(client, address, request);
  if (response.status >= 400) throw_status_error(response, address, file.name);
  if (const std::string sent = response.header("x-repo-commit"); !sent.empty() && sent != commit) {
    throw InputError(text("{} of {} belongs to commit {} instead of {}: run the command again", file.name,
                          address.id, sent, commit));
  }
  // The X-Linked headers are the LFS file's; the plain ones then are the redirect's own.
  std::string etag = bare_etag(response.header("x-linked-etag"));
  if (etag.empty()) etag = bare_etag(response.header("etag"));
  if (!etag.empty()) file.etag = etag;
  std::optional<uint64_t> size = parse_size(response.header("x-linked-size"));
  if (!size && response.status == 200) size = parse_size(response.header("content-length"));
  if (size) file.size = size;
  if (file.size.value_or(0) > kLargestFile) {
    throw InputError(text("the hub says that {} of {} has {} bytes: check HF_ENDPOINT", file.name, address.id,
                          *file.size));
  }
  if (!is_etag(file.etag)) {
    throw InputError(
        text("the hub gives no usable ETag for {} of {}: check HF_ENDPOINT", file.name, address.id));
  }
  return file;
}

Retry::Retry(const HubOptions& options, int max_retries, std::function<bool()> should_stop)
    : options_(options), max_retries_(max_retries), should_stop_(std::move(should_stop)) {}

void Retry::wait(const std::string& problem, double retry_after) {
  if (attempt_ >= max_retries_) throw HubUnreachable(problem);
  double pause = std::min(kLongestPause,
                          options_.retry_base_seconds * static_cast<double>(1ull << std::min(attempt_, 20)));
  thread_local std::minstd_rand random(std::random_device{}());
  pause *= std::uniform_real_distribution<double>(0.75, 1.25)(random);
  pause = std::max(pause, retry_after);
  ++attempt_;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(pause);
  while (std::chrono::steady_clock::now() < end) {
    if (should_stop_ && should_stop_()) throw RequestStopped();
    std::this_thread::sleep_for(std::min<std::chrono::duration<double>>(
        std::chrono::milliseconds(50), end - std::chrono::steady_clock::now()));
  }
}

bool is_transient_status(long status) { return status == 408 || status == 429 || status >= 500; }

double retry_after_seconds(const HttpResponse& response) {
  const std::string value = response.header("retry-after");
  if (value.empty()) return 0;
  double seconds = 0;
  if (const auto whole = parse_size(value)) {
    seconds = static_cast<double>(*whole);
  } else if (const time_t date = curl_getdate(value.c_str(), nullptr); date > 0) {
    seconds = std::difftime(date, std::time(nullptr));
  }
  return std::clamp(seconds, 0.0, kLongestRetryAfter);
}

void throw_status_error(const HttpResponse& response, const RemoteAddress& address, const std::string& file) {
  const std::string code = response.header("x-error-code");
  const std::string& id = address.id;
  const std::string page = address.options.endpoint + "/" + id;
  if (code == "GatedRepo" || response.status == 403) {
    throw InputError(text(
        "{} is a gated model: accept its terms at {} and set HF_TOKEN to a token of that account", id, page));
  }
  if (code == "RevisionNotFound") {
    throw InputError(
        text("{} has no revision {}: see its branches and tags at {}", id, address.revision, page));
  }
  if (response.status == 401 && address.options.token.empty()) {
    throw InputError(text(
        "the hub shows no model {} without a login: check the name, or set HF_TOKEN if it is private", id));
  }
  if (response.status == 401) {
    throw InputError(
        text("the hub does not accept the token for {}: check HF_TOKEN and the model's name", id));
  }
  if (response.status == 404 && !file.empty()) {
    throw InputError(text("{} has no file {} at the hub", id, file));
  }
  if (response.status == 404) {
    throw InputError(text("there is no model {} at {}, and no folder of that name here: check model_name", id,
                          address.options.endpoint));
  }
  throw InputError(text("the hub answers with status {} for {}: {}", response.status,
                        file.empty() ? id : file, response.header("x-error-message")));
}

}  // namespace onggi::hub

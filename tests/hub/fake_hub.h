// A hub on the loopback interface: one server speaks the hub's protocol, another one plays the CDN that large
// files are redirected to. It records what it was asked and misbehaves as a test orders.
#pragma once

#include <httplib.h>

#include <deque>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"

namespace onggi::testing_hub {

inline const std::string kCommit = "0123456789abcdef0123456789abcdef01234567";

struct StoredFile {
  std::string contents;
  enum class Kind { kGit, kLfs } kind = Kind::kGit;
  std::string etag;
};

struct SeenRequest {
  std::string server;  // "hub" or "cdn"
  std::string method;
  std::string path;
  std::string range;          // header; "" where there was none
  std::string authorization;  // header
};

// What happens to the next request for a file's contents.
struct Fault {
  int status = 0;                      // answered instead of the contents, where not 0
  std::string retry_after = "";        // with the status
  size_t cut_after = 0;                // the connection breaks after so many bytes, where not 0
  bool flip_a_byte = false;            // contents are not the announced ones
  std::chrono::milliseconds pause{0};  // before each piece of 16 KiB: a slow line
  bool ignore_range = false;           // 200 and the whole file, whatever range was asked for
};

class FakeHub {
 public:
  FakeHub() {
    hub_.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      return handle_hub(request, response);
    });
    cdn_.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      return handle_cdn(request, response);
    });
    for (httplib::Server* server : {&hub_, &cdn_}) server->set_keep_alive_timeout(1);
    hub_port_ = hub_.bind_to_any_port("127.0.0.1");
    cdn_port_ = cdn_.bind_to_any_port("127.0.0.1");
    threads_.emplace_back([this] { hub_.listen_after_bind(); });
    threads_.emplace_back([this] { cdn_.listen_after_bind(); });
    while (!hub_.is_running() || !cdn_.is_running())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ~FakeHub() {
    hub_.stop(), cdn_.stop();
    for (auto& thread : threads_) thread.join();
  }

  std::string endpoint() const { return "http://127.0.0.1:" + std::to_string(hub_port_); }

  void add_git(const std::string& name, const std::string& contents, const std::string& blob_id) {
    files_[name] = {contents, StoredFile::Kind::kGit, blob_id};
  }
  void add_lfs(const std::string& name, const std::string& contents) {
    files_[name] = {contents, StoredFile::Kind::kLfs, sha256_hex(contents)};
  }
  void order(const std::string& name, const Fault& fault) { faults_[name].push_back(fault); }

  std::vector<SeenRequest> seen(const std::string& method, const std::string& name) {
    const std::lock_guard lock(mutex_);
    std::vector<SeenRequest> out;
    for (const auto& request : seen_) {
      if (request.method == method && request.path.ends_with("/" + name)) out.push_back(request);
    }
    return out;
  }
  size_t request_count() {
    const std::lock_guard lock(mutex_);
    return seen_.size();
  }

  // How the API answers.
  int api_status = 200;
  std::string api_error_code;
  bool api_has_sizes = true;
  std::string required_token;  // 401 without it
  uint64_t claimed_size = 0;   // of LFS files in the headers, where not 0

 private:
  using Result = httplib::Server::HandlerResponse;

  void record(const char* server, const httplib::Request& request) {
    const std::lock_guard lock(mutex_);
    seen_.push_back({server, request.method, request.path, request.get_header_value("Range"),
                     request.get_header_value("Authorization")});
  }

  std::optional<Fault> next_fault(const std::string& name) {
    const std::lock_guard lock(mutex_);
    auto& queue = faults_[name];
    if (queue.empty()) return std::nullopt;
    const Fault fault = queue.front();
    queue.pop_front();
    return fault;
  }

  Result handle_hub(const httplib::Request& request, httplib::Response& response) {
    record("hub", request);
    if (!required_token.empty() && request.get_header_value("Authorization") != "Bearer " + required_token) {
      response.status = 401;
      return Result::Handled;
    }
    if (request.path.starts_with("/api/models/")) return handle_api(request, response);
    const size_t at = request.path.find("/resolve/" + kCommit + "/");
    if (at == std::string::npos) return not_found(response);
    const std::string name = request.path.substr(at + kCommit.size() + 10);
    if (files_.count(name) == 0) return not_found(response);
    const StoredFile& file = files_.at(name);
    response.set_header("X-Repo-Commit", kCommit);
    if (file.kind == StoredFile::Kind::kLfs) {
      response.set_header("X-Linked-Etag", "\"" + file.etag + "\"");
      response.set_header("X-Linked-Size",
                          std::to_string(claimed_size != 0 ? claimed_size : file.contents.size()));
      response.set_header("ETag", "\"of-the-redirect\"");
      response.status = 302;
      response.set_header("Location",
                          "http://127.0.0.1:" + std::to_string(cdn_port_) + "/cdn/" + name + "?signature=1");
      return Result::Handled;
    }
    response.set_header("ETag", "W/\"" + file.etag + "\"");
    return send_contents(name, request, response);
  }

  Result handle_cdn(const httplib::Request& request, httplib::Response& response) {
    record("cdn", request);
    return send_contents(request.path.substr(5), request, response);
  }

  Result handle_api(const httplib::Request&, httplib::Response& response) {
    response.status = api_status;
    if (!api_error_code.empty()) response.set_header("X-Error-Code", api_error_code);
    nlohmann::json siblings = nlohmann::json::array();
    for (const auto& [name, file] : files_) {
      nlohmann::json sibling = {{"rfilename", name}};
      if (api_has_sizes) sibling["size"] = file.contents.size();
      siblings.push_back(sibling);
    }
    response.set_content(nlohmann::json{{"sha", kCommit}, {"siblings", siblings}}.dump(), "application/json");
    return Result::Handled;
  }

  Result send_contents(const std::string& name, const httplib::Request& request,
                       httplib::Response& response) {
    std::string contents = files_.at(name).contents;
    const std::optional<Fault> fault = request.method == "GET" ? next_fault(name) : std::nullopt;
    if (fault && fault->status != 0) {
      response.status = fault->status;
      if (!fault->retry_after.empty()) response.set_header("Retry-After", fault->retry_after);
      return Result::Handled;
    }
    if (fault && fault->flip_a_byte) contents[contents.size() / 2] ^= 1;
    if (fault && fault->ignore_range) {
      const_cast<httplib::Request&>(request).ranges.clear();  // the library would cut the answer otherwise
    }
    const size_t cut = fault ? fault->cut_after : 0;
    response.status = request.ranges.empty() ? 200 : 206;
    response.set_content_provider(
        contents.size(), "application/octet-stream",
        [contents, cut, pause = fault ? fault->pause : std::chrono::milliseconds(0), sent = size_t{0}](
            size_t offset, size_t length, httplib::DataSink& sink) mutable {
          std::this_thread::sleep_for(pause);
          size_t part = std::min<size_t>(length, 16384);
          if (cut != 0) part = std::min(part, cut - sent);
          if (cut != 0 && sent >= cut) return false;
          sent += part;
          return sink.write(contents.data() + offset, part);
        });
    return Result::Handled;
  }

  static Result not_found(httplib::Response& response) {
    response.status = 404;
    return Result::Handled;
  }

  httplib::Server hub_, cdn_;
  int hub_port_ = 0, cdn_port_ = 0;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::map<std::string, StoredFile> files_;
  std::map<std::string, std::deque<Fault>> faults_;
  std::vector<SeenRequest> seen_;
};

}  // namespace onggi::testing_hub

#include "quantize/ollama.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/process.h"
#include "base/text.h"
#include "formats/json_file.h"
#include "quantize/rest_client.h"

namespace onggi {
namespace {

using nlohmann::json;

// Ollama reads the whole file and writes its own copy before it answers "success".
constexpr double kCreateStallSeconds = 600;

std::optional<json> parse_object(std::string_view text_of_json) {
  try {
    json value = parse_json(text_of_json, "Ollama");
    if (value.is_object()) return value;
  } catch (const InputError&) {
  }
  return std::nullopt;
}

std::string string_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

uint64_t number_of(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
}

// One step of the conversation failed: says at which request and how.
std::string failure(const RestRequest& request, const RestAnswer& answer) {
  if (!answer.reached) return text("the connection for {} broke: {}", request.path, answer.trouble);
  std::string detail;
  if (const auto body = parse_object(answer.body)) detail = string_of(*body, "error");
  if (detail.empty()) detail = answer.body.substr(0, 200);
  return text("{} answered {}: {}", request.path, answer.status, detail);
}

json parameters_json(const ServedParameters& parameters) {
  json object = {
      {"temperature", parameters.temperature}, {"top_k", parameters.top_k}, {"top_p", parameters.top_p}};
  if (parameters.context_length) object["num_ctx"] = *parameters.context_length;
  if (!parameters.stop.empty()) object["stop"] = parameters.stop;
  return object;
}

// The conversation with one server; each step returns false and leaves the reason in the result when it
// fails.
class Registration {
 public:
  Registration(const OllamaOptions& options, OllamaResult& result)
      : options_(options), result_(result), client_(result.host) {}

  // False where nobody, or somebody else, answers.
  bool find_server() {
    const RestAnswer answer = client_.perform({.path = "/api/version", .stall_seconds = 5});
    if (!answer.reached) {
      result_.reason = text("no Ollama answers at {}: {}", result_.host, answer.trouble);
      return false;
    }
    const auto body = answer.status == 200 ? parse_object(answer.body) : std::nullopt;
    if (!body || string_of(*body, "version").empty()) {
      result_.reason =
          text("the server at {} is no Ollama (/api/version answered {})", result_.host, answer.status);
      return false;
    }
    result_.version = string_of(*body, "version");
    return true;
  }

  bool upload() {
    report(text("hashing"), 0, 0);
    result_.digest = "sha256:" + sha256_hex_of_file(options_.gguf);
    RestRequest request{.method = RestRequest::Method::kHead, .path = "/api/blobs/" + result_.digest};
    const RestAnswer present = client_.perform(request);
    if (present.reached && present.status == 200) return true;
    if (!present.reached || present.status != 404) return fail(request, present);
    request.method = RestRequest::Method::kPost;
    request.file = options_.gguf;
    request.stall_seconds = kCreateStallSeconds;
    request.on_sent = [&](uint64_t done, uint64_t total) { report(text("uploading"), done, total); };
    const RestAnswer answer = client_.perform(request);
    return answer.reached && (answer.status == 201 || answer.status == 200) ? true : fail(request, answer);
  }

  bool create() {
    json body = {{"model", options_.model},
                 {"files", {{options_.gguf.filename().string(), result_.digest}}},
                 {"parameters", parameters_json(options_.parameters)},
                 {"stream", true}};
    if (!options_.parameters.system.empty()) body["system"] = options_.parameters.system;
    std::string last_status, error;
    RestRequest request{.method = RestRequest::Method::kPost, .path = "/api/create"};
    request.body = body.dump();
    request.stall_seconds = kCreateStallSeconds;
    request.on_line = [&](std::string_view line) {
      const auto event = parse_object(line);
      if (!event) return;
      if (event->contains("error")) error = string_of(*event, "error");
      last_status = string_of(*event, "status");
      report(last_status, number_of(*event, "completed"), number_of(*event, "total"));
    };
    const RestAnswer answer = client_.perform(request);
    if (!answer.reached || answer.status != 200) return fail(request, answer);
    // Errors after the first byte come inside the stream, with status 200.
    if (!error.empty() || last_status != "success") {
      result_.reason = text("Ollama could not create {}: {}", options_.model,
                            error.empty() ? text("its answer ended with \"{}\"", last_status) : error);
      return false;
    }
    return true;
  }

  bool verify() {
    RestRequest request{.method = RestRequest::Method::kPost, .path = "/api/show"};
    request.body = json{{"model", options_.model}}.dump();
    const RestAnswer answer = client_.perform(request);
    const auto body = answer.reached && answer.status == 200 ? parse_object(answer.body) : std::nullopt;
    if (!body) return fail(request, answer);
    if (const auto found = body->find("capabilities"); found != body->end() && found->is_array()) {
      for (const json& name : *found) {
        if (name.is_string()) result_.capabilities.push_back(name.get<std::string>());
      }
    }
    return true;
  }

 private:
  void report(const std::string& status, uint64_t done, uint64_t total) const {
    if (options_.progress) options_.progress(status, done, total);
  }
  bool fail(const RestRequest& request, const RestAnswer& answer) {
    result_.reason = failure(request, answer);
    return false;
  }

  const OllamaOptions& options_;
  OllamaResult& result_;
  RestClient client_;
};

// `ollama create` talks to its own server, which may be reachable in ways that we are not.
void try_command(const OllamaOptions& options, OllamaResult& result) {
  if (options.modelfile.empty()) return;
  const auto run = run_subprocess({"env", "OLLAMA_HOST=" + result.host, "ollama", "create", options.model,
                                   "-f", options.modelfile.string()});
  constexpr int kNoSuchProgram = 127;
  if (!run || run->exit_code == kNoSuchProgram) {
    result.reason += text(", and there is no command ollama");
    return;
  }
  result.how = OllamaWay::kCommand;
  result.registered = run->exit_code == 0;
  result.reason = result.registered ? "" : text("ollama create failed: {}", run->output.substr(0, 500));
}

int parse_port(std::string_view digits, const std::string& host) {
  int port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size() || port < 1 || port > 65535) {
    throw UsageError(
        text("Ollama's host \"{}\" has no valid port: write host:port with a port of 1 to 65535", host));
  }
  return port;
}

}  // namespace

std::string ollama_url(const std::string& host) {
  std::string rest = host, scheme = "http";
  int port = 11434;
  if (const size_t at = rest.find("://"); at != std::string::npos) {
    scheme = rest.substr(0, at);
    rest.erase(0, at + 3);
    if (scheme != "http" && scheme != "https") {
      throw UsageError(
          text("Ollama's host \"{}\" must begin with http:// or https://, or name no scheme", host));
    }
    port = scheme == "http" ? 80 : 443;
  }
  std::string path;
  if (const size_t slash = rest.find('/'); slash != std::string::npos) {
    path = rest.substr(slash);
    rest.erase(slash);
    while (path.ends_with('/')) path.pop_back();
  }
  const size_t bracket = rest.rfind(']');  // of an IPv6 address
  const size_t colon = rest.rfind(':');
  const bool bare_ipv6 = bracket == std::string::npos && std::count(rest.begin(), rest.end(), ':') > 1;
  if (colon != std::string::npos && !bare_ipv6 && (bracket == std::string::npos || colon > bracket)) {
    port = parse_port(std::string_view(rest).substr(colon + 1), host);
    rest.erase(colon);
  }
  if (bare_ipv6) rest = "[" + rest + "]";
  // Addresses to listen on mean this machine to a client.
  if (rest.empty() || rest == "0.0.0.0") rest = "127.0.0.1";
  if (rest == "[::]") rest = "[::1]";
  return scheme + "://" + rest + ":" + std::to_string(port) + path;
}

OllamaResult register_with_ollama(const OllamaOptions& options) {
  std::string host = options.host;
  if (const char* variable = std::getenv("OLLAMA_HOST"); host.empty() && variable != nullptr) host = variable;
  OllamaResult result;
  result.host = ollama_url(host);
  Registration registration(options, result);
  if (!registration.find_server()) {
    try_command(options, result);
    return result;
  }
  result.how = OllamaWay::kApi;
  result.registered = registration.upload() && registration.create() && registration.verify();
  return result;
}

}  // namespace onggi

#include "serve/routes.h"

#include "base/log.h"
#include "base/text.h"
#include "serve/access.h"
#include "serve/admission.h"
#include "serve/anthropic_api.h"
#include "serve/chat_api.h"
#include "serve/handlers.h"
#include "serve/ollama_api.h"
#include "serve/openai_api.h"
#include "serve/request_error.h"

namespace onggi {
namespace {

struct Route {
  const char* method;
  const char* path;  // one that ends with '*' stands for everything that begins so
  const char* api;   // label of metrics
  HttpResponse (*handle)(const Call& call);
  // Whether a request counts against the quota of its key: those that let the model work.
  enum class Quota { kFree, kCounted } quota = Quota::kFree;
};
constexpr auto kCounted = Route::Quota::kCounted;

// The first that fits counts.
constexpr Route kRoutes[] = {
    {"GET", "/", "other", get_root},
    {"GET", "/health", "health", get_health},
    {"POST", "/chat", "chat", post_chat, kCounted},
    {"POST", "/v1/chat/completions", "openai_chat", post_openai_chat, kCounted},
    {"POST", "/v1/completions", "openai_completions", post_openai_completion, kCounted},
    {"POST", "/v1/embeddings", "openai_embeddings", post_openai_embeddings, kCounted},
    {"POST", "/v1/messages", "anthropic_messages", post_anthropic_messages, kCounted},
    {"POST", "/v1/messages/count_tokens", "anthropic_count", post_anthropic_count},
    {"GET", "/v1/models", "openai_models", get_openai_models},
    {"GET", "/v1/models/*", "openai_models", get_openai_model},
    {"POST", "/api/chat", "ollama_chat", post_ollama_chat, kCounted},
    {"POST", "/api/generate", "ollama_generate", post_ollama_generate, kCounted},
    {"GET", "/api/version", "ollama_info", get_ollama_version},
    {"GET", "/api/tags", "ollama_info", get_ollama_tags},
    {"GET", "/api/ps", "ollama_info", get_ollama_ps},
    {"POST", "/api/show", "ollama_info", post_ollama_show},
    {"POST", "/api/pull", "ollama_info", post_ollama_pull},
    {"POST", "/api/embed", "ollama_embed", post_ollama_embed, kCounted},
    {"POST", "/api/embeddings", "ollama_embed", post_ollama_embeddings, kCounted},
    {"POST", "/api/push", "ollama_info", refuse_ollama_change},
    {"POST", "/api/create", "ollama_info", refuse_ollama_change},
    {"POST", "/api/copy", "ollama_info", copy_ollama_model},
    {"DELETE", "/api/delete", "ollama_info", delete_ollama_model},
    {"POST", "/api/blobs/*", "ollama_info", refuse_ollama_change},
    {"GET", "/api/blobs/*", "ollama_info", get_ollama_blob},
    {"GET", "/metrics", "metrics", get_metrics},
    {"GET", "/dashboard/data", "dashboard", get_dashboard_data},
    {"GET", "/dashboard", "dashboard", get_dashboard},
    {"GET", "/dashboard/*", "dashboard", get_dashboard},
};

bool matches(const Route& route, const std::string& path) {
  const std::string_view pattern = route.path;
  if (!pattern.ends_with('*')) return path == pattern;
  const std::string_view prefix = pattern.substr(0, pattern.size() - 1);
  return path.size() > prefix.size() && path.starts_with(prefix);
}

HttpResponse handle(const Route& route, const Call& call) {
  const std::string& path = call.request.path;
  try {
    HttpResponse response = route.handle(call);
    if (!response.stream) call.recorder->set_status(response.status);
    return response;
  } catch (const RequestError& error) {
    call.recorder->set_status(error.status());
    return error_response(path, error.status(), error.what(), error.field());
  } catch (const std::exception& error) {
    call.recorder->set_status(500);
    spdlog::error("request {} to {}: {}", call.request.id, path, error.what());
    return error_response(path, 500, text("the service failed: {}", error.what()));
  }
}

// Whose quota a request counts against.
std::string client_of(const ServiceState& state, const HttpRequest& request) {
  if (state.api_keys.empty()) return request.remote_address;
  return request_key(request.header("authorization"), request.header("x-api-key"));
}

HttpResponse handle_counted(const Route& route, const Call& call) {
  const std::string client = client_of(call.state, call.request);
  if (const auto refusal = call.state.quota.admit(client)) {
    call.recorder->set_status(429);
    HttpResponse response = error_response(call.request.path, 429, refusal->message);
    response.headers.emplace_back("Retry-After", std::to_string(refusal->retry_after_s));
    return response;
  }
  call.recorder->on_end(
      [&quota = call.state.quota, client](int64_t tokens) { quota.add_tokens(client, tokens); });
  return handle(route, call);
}

HttpResponse dispatch(ServiceState& state, Listener listener, const HttpRequest& request) {
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  std::string allowed;
  for (const Route& route : kRoutes) {
    if (!matches(route, request.path)) continue;
    if (method == route.method) {
      const Call call{state, listener, request,
                      std::make_shared<RequestRecorder>(state.metrics, request, route.api)};
      return route.quota == kCounted ? handle_counted(route, call) : handle(route, call);
    }
    allowed = route.method;
  }
  RequestRecorder recorder(state.metrics, request, "other");
  const int status = allowed.empty() ? 404 : 405;
  recorder.set_status(status);
  if (status == 404) return error_response(request.path, 404, text("there is nothing at {}", request.path));
  HttpResponse response =
      error_response(request.path, 405, text("{} takes {}, not {}", request.path, allowed, request.method));
  response.headers.emplace_back("Allow", allowed);
  return response;
}

}  // namespace

std::shared_ptr<LoadedService> ServiceState::loaded() const {
  const std::lock_guard lock(mutex_);
  return loaded_;
}

void ServiceState::set_loaded(std::shared_ptr<LoadedService> loaded) {
  const std::lock_guard lock(mutex_);
  loaded_ = std::move(loaded);
}

std::string error_body(const std::string& path, int status, const std::string& message,
                       const std::string& field) {
  if (path.starts_with("/v1/messages")) return anthropic_error(status, message);
  if (path.starts_with("/v1/")) return openai_error(status, message, field);
  if (path.starts_with("/api/") || path == "/") return ollama_error(message);
  return chat_error(message, field);
}

HttpResponse error_response(const std::string& path, int status, const std::string& message,
                            const std::string& field) {
  HttpResponse response;
  response.status = status;
  response.body = error_body(path, status, message, field);
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

HttpResponse route_request(ServiceState& state, Listener listener, const HttpRequest& request) {
  HttpResponse response = dispatch(state, listener, request);
  add_cors(request, response);
  return response;
}

}  // namespace onggi

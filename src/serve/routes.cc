#include "serve/routes.h"

#include <ctime>
#include <nlohmann/json.hpp>
#include <random>

#include "base/log.h"
#include "base/text.h"
#include "serve/access.h"
#include "serve/anthropic_api.h"
#include "serve/chat_api.h"
#include "serve/embeddings.h"
#include "serve/ollama_api.h"
#include "serve/openai_api.h"
#include "serve/request_error.h"
#include "serve/sampling_fields.h"

namespace onggi {
namespace {

// What a handler is given.
struct Call {
  ServiceState& state;
  Listener listener;
  const HttpRequest& request;
  std::shared_ptr<RequestRecorder> recorder;
};

struct Route {
  const char* method;
  const char* path;  // one that ends with '*' stands for everything that begins so
  const char* api;   // label of metrics
  HttpResponse (*handle)(const Call& call);
  // Whether a request counts against the quota of its key: those that let the model work.
  enum class Quota { kFree, kCounted } quota = Quota::kFree;
};
constexpr auto kCounted = Route::Quota::kCounted;

HttpResponse json_response(const Json& value, int status = 200) {
  HttpResponse response;
  response.status = status;
  response.body = dump(value);
  return response;
}

std::shared_ptr<LoadedService> require_model(const Call& call) {
  auto loaded = call.state.loaded();
  if (!loaded) throw RequestError(503, "", text("the model is still loading; try again in a moment"));
  return loaded;
}

std::string random_id(const char* prefix) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{}{:016x}", prefix, random());
}

AnswerHead make_head(const char* prefix, std::string model) {
  return {random_id(prefix), static_cast<int64_t>(std::time(nullptr)), std::move(model), utc_now_rfc3339};
}

std::string named_model(const Json& body, const LoadedService& loaded) {
  return Fields(body).string("model").value_or(loaded.served.names.front());
}

// The engine and the model live as long as an answer that uses them.
HttpResponse answer(const Call& call, const std::shared_ptr<LoadedService>& loaded, const Query& query,
                    const MakeFormatter& make_formatter) {
  HttpResponse response =
      answer_query(*loaded->generator, query, call.request, call.recorder, make_formatter);
  if (response.stream)
    response.stream = [loaded, stream = std::move(response.stream)](const StreamWriter& write) {
      stream(write);
    };
  return response;
}

HttpResponse post_chat(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Query query = parse_chat(body, loaded->served);
  return answer(call, loaded, query, [&](const auto&) {
    return chat_formatter(make_head("chat-", loaded->served.names.front()));
  });
}

HttpResponse post_openai_chat(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Query query = parse_openai_chat(body, loaded->served);
  const StreamUsage usage = openai_stream_usage(body);
  return answer(call, loaded, query, [&](const auto&) {
    return openai_chat_formatter(make_head("chatcmpl-", named_model(body, *loaded)), query, usage,
                                 loaded->model.tokenizer);
  });
}

HttpResponse post_openai_completion(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Query query = parse_openai_completion(body, loaded->served);
  const StreamUsage usage = openai_stream_usage(body);
  return answer(call, loaded, query, [&](const auto&) {
    return openai_completion_formatter(make_head("cmpl-", named_model(body, *loaded)), query, usage,
                                       loaded->model.tokenizer);
  });
}

HttpResponse post_anthropic_messages(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Query query = parse_anthropic_messages(body, loaded->served);
  return answer(call, loaded, query, [&](const std::vector<int32_t>& prompt) {
    return anthropic_formatter(make_head("msg_", named_model(body, *loaded)),
                               static_cast<int64_t>(prompt.size()));
  });
}

HttpResponse post_anthropic_count(const Call& call) {
  const auto loaded = require_model(call);
  const Query query = parse_anthropic_count(parse_request_body(call.request.body), loaded->served);
  return json_response({{"input_tokens", prepare_prompt(loaded->model, query).ids.size()}});
}

HttpResponse get_openai_models(const Call& call) {
  return json_response(openai_models(require_model(call)->served));
}

HttpResponse get_openai_model(const Call& call) {
  const auto loaded = require_model(call);
  const std::string name = call.request.path.substr(std::string_view("/v1/models/").size());
  if (!is_served(loaded->served, name)) fail_unknown_model(name, loaded->served);
  return json_response(openai_model(loaded->served, name));
}

HttpResponse post_ollama_chat(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const OllamaRequest request = parse_ollama_chat(body, loaded->served);
  AnswerHead head = make_head("", named_model(body, *loaded));
  if (request.kind != OllamaRequest::Kind::kAnswer)
    return json_response(ollama_load_answer(head, OllamaEndpoint::kChat, request.kind));
  return answer(call, loaded, request.query, [&](const auto&) {
    return ollama_chat_formatter(std::move(head), request.query, loaded->model.tokenizer);
  });
}

HttpResponse post_ollama_generate(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const OllamaRequest request = parse_ollama_generate(body, loaded->served);
  AnswerHead head = make_head("", named_model(body, *loaded));
  if (request.kind != OllamaRequest::Kind::kAnswer)
    return json_response(ollama_load_answer(head, OllamaEndpoint::kGenerate, request.kind));
  const bool raw = !std::holds_alternative<Conversation>(request.query.prompt);
  return answer(call, loaded, request.query, [&](const std::vector<int32_t>& prompt) {
    return ollama_generate_formatter(std::move(head), request.query, loaded->model.tokenizer,
                                     raw ? std::vector<int32_t>() : prompt);
  });
}

HttpResponse get_ollama_tags(const Call& call) {
  const auto loaded = call.state.loaded();
  if (!loaded) return json_response({{"models", Json::array()}});
  return json_response(ollama_tags(loaded->served));
}

HttpResponse get_ollama_ps(const Call& call) {
  const auto loaded = call.state.loaded();
  if (!loaded) return json_response({{"models", Json::array()}});
  return json_response(
      ollama_running(loaded->served, loaded->served.size_bytes + loaded->engine->stats().kv_bytes));
}

HttpResponse post_ollama_show(const Call& call) {
  return json_response(ollama_show(parse_request_body(call.request.body), require_model(call)->served));
}

HttpResponse get_ollama_version(const Call&) { return json_response({{"version", kOllamaVersion}}); }

// Clients pull before they ask; what is here needs no pulling.
HttpResponse post_ollama_pull(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Fields fields(body);
  const auto old_name = fields.string("name");
  const std::string name =
      old_name && fields.find("model") == nullptr ? *old_name : fields.require_string("model");
  if (!is_served(loaded->served, name)) fail_unknown_model(name, loaded->served);
  HttpResponse response = json_response({{"status", "success"}});
  if (fields.boolean("stream").value_or(true)) {
    response.content_type = "application/x-ndjson";
    response.body += "\n";
  }
  return response;
}

HttpResponse refuse_ollama_change(const Call&) {
  throw RequestError(501, "",
                     text("this service serves one model and cannot create, copy, push or delete models; "
                          "use onggi or Ollama for that"));
}

// Copies and deletions of models that are not here fail as they do with Ollama.
HttpResponse refuse_ollama_change_of(const Call& call, const char* field) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Fields fields(body);
  const auto old_name = fields.string("name");
  const std::string name =
      old_name && fields.find(field) == nullptr ? *old_name : fields.require_string(field);
  if (!is_served(loaded->served, name)) fail_unknown_model(name, loaded->served);
  return refuse_ollama_change(call);
}
HttpResponse delete_ollama_model(const Call& call) { return refuse_ollama_change_of(call, "model"); }
HttpResponse copy_ollama_model(const Call& call) { return refuse_ollama_change_of(call, "source"); }

// Clients ask whether a blob is here before they send it.
HttpResponse get_ollama_blob(const Call&) {
  throw RequestError(404, "", text("there is no such blob; this service keeps none"));
}

using ParseEmbeddings = EmbeddingQuery (*)(const Json&, const LoadedModel&, const ServedModel&);
Embeddings embed_for(const Call& call, const LoadedService& loaded, const Json& body, ParseEmbeddings parse) {
  const EmbeddingQuery query = parse(body, loaded.model, loaded.served);
  return embed(query, {*loaded.engine, loaded.generator->request_timeout(), call.request, *call.recorder});
}

HttpResponse post_openai_embeddings(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Embeddings embeddings = embed_for(call, *loaded, body, parse_openai_embeddings);
  return json_response(openai_embeddings(body, named_model(body, *loaded), embeddings));
}

HttpResponse post_ollama_embed(const Call& call) {
  const Stopwatch watch;
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Embeddings embeddings = embed_for(call, *loaded, body, parse_ollama_embed);
  return json_response(ollama_embed(named_model(body, *loaded), embeddings, watch.seconds()));
}

HttpResponse post_ollama_embeddings(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  return json_response(ollama_embeddings(embed_for(call, *loaded, body, parse_ollama_embeddings)));
}

HttpResponse get_root(const Call& call) {
  HttpResponse response;
  if (call.listener == Listener::kOllama) {
    response.content_type = "text/plain; charset=utf-8";
    response.body = "Ollama is running";  // what clients look for
    return response;
  }
  response.status = 302;
  response.headers = {{"Location", "/dashboard"}};
  return response;
}

HttpResponse get_health(const Call& call) {
  const auto loaded = call.state.loaded();
  const double uptime = call.state.uptime.seconds();
  if (call.state.stopping) return json_response({{"status", "stopping"}, {"uptime_s", uptime}}, 503);
  if (!loaded) return json_response({{"status", "loading"}, {"uptime_s", uptime}}, 503);
  const EngineStats stats = loaded->engine->stats();
  return json_response({{"status", "ok"},
                        {"model", loaded->served.names.front()},
                        {"uptime_s", uptime},
                        {"version", ONGGI_VERSION},
                        {"active", stats.active},
                        {"queued", stats.queued}});
}

HttpResponse get_metrics(const Call& call) {
  const auto loaded = call.state.loaded();
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = call.state.metrics.prometheus_text(
      loaded ? std::optional(loaded->engine->stats()) : std::nullopt,
      loaded ? loaded->served.names.front() : "", loaded ? loaded->served.quantization : "");
  return response;
}

HttpResponse get_dashboard_data(const Call& call) {
  const auto loaded = call.state.loaded();
  DashboardState state;
  state.status = call.state.stopping ? "stopping" : loaded ? "ok" : "loading";
  state.uptime_s = call.state.uptime.seconds();
  state.port = call.state.port;
  state.ollama_port = call.state.ollama_port;
  if (loaded) {
    state.engine = loaded->engine->stats();
    state.model = &loaded->served;
    state.max_batch = loaded->engine->options().max_batch;
  }
  HttpResponse response = json_response(dashboard_data(state, call.state.metrics));
  response.headers = {{"Cache-Control", "no-store"}};
  return response;
}

HttpResponse get_dashboard(const Call& call) {
  HttpResponse response = dashboard_file(call.request.path);
  if (response.status == 404) throw RequestError(404, "", text("there is nothing at this address"));
  return response;
}

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

HttpResponse error_response(const std::string& path, int status, const std::string& message,
                            const std::string& field = {}) {
  HttpResponse response;
  response.status = status;
  response.body = error_body(path, status, message, field);
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
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

// Pages and health are open: they hold no data, and probes carry no keys.
bool needs_key(const HttpRequest& request) {
  const std::string& path = request.path;
  if (path == "/health" || path == "/") return false;
  return !path.starts_with("/dashboard") || path == "/dashboard/data";
}

void add_cors(const HttpRequest& request, HttpResponse& response) {
  const std::string& origin = request.header("origin");
  if (origin.empty()) return;
  response.headers.emplace_back("Access-Control-Allow-Origin", origin);
  response.headers.emplace_back("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
  response.headers.emplace_back("Vary", "Origin");
}

HttpResponse preflight(const HttpRequest& request) {
  HttpResponse response;
  response.status = 204;
  response.headers = {{"Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS"},
                      {"Access-Control-Max-Age", "43200"}};
  const std::string& wanted = request.header("access-control-request-headers");
  if (!wanted.empty()) response.headers.emplace_back("Access-Control-Allow-Headers", wanted);
  add_cors(request, response);
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

std::optional<HttpResponse> admit_request(const ServiceState& state, const HttpRequest& request) {
  const std::string& host = request.header("host");
  if (state.host_check == ServiceState::HostCheck::kLocalOnly && !host_is_local(host, state.machine_name))
    return error_response(
        request.path, 403,
        text("this service answers to local names only, not to \"{}\"; to serve others, set "
             "server.host",
             host));
  if (!origin_is_allowed(request.header("origin"), host, state.cors_origins))
    return error_response(request.path, 403,
                          text("pages of {} may not use this service; add the origin to server.cors_origins",
                               request.header("origin")));
  if (request.method == "OPTIONS") return preflight(request);
  const std::string key = request_key(request.header("authorization"), request.header("x-api-key"));
  if (needs_key(request) && !key_is_valid(state.api_keys, key)) {
    HttpResponse response = error_response(
        request.path, 401,
        key.empty() ? text("this service needs an API key; send it as \"Authorization: Bearer KEY\"")
                    : text("this API key is not valid"));
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
    add_cors(request, response);
    return response;
  }
  return std::nullopt;
}

HttpResponse route_request(ServiceState& state, Listener listener, const HttpRequest& request) {
  HttpResponse response = dispatch(state, listener, request);
  add_cors(request, response);
  return response;
}

}  // namespace onggi

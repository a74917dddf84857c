#include "serve/admission.h"

#include "base/text.h"
#include "serve/access.h"

namespace onggi {
namespace {

// Pages and health are open: they hold no data, and probes carry no keys.
bool needs_key(const HttpRequest& request) {
  const std::string& path = request.path;
  if (path == "/health" || path == "/") return false;
  return !path.starts_with("/dashboard") || path == "/dashboard/data";
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

void add_cors(const HttpRequest& request, HttpResponse& response) {
  const std::string& origin = request.header("origin");
  if (origin.empty()) return;
  response.headers.emplace_back("Access-Control-Allow-Origin", origin);
  response.headers.emplace_back("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
  response.headers.emplace_back("Vary", "Origin");
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

}  // namespace onggi

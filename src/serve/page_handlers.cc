// What people and probes look at: health, metrics, the dashboard.
#include <string>

#include "base/text.h"
#include "serve/call.h"
#include "serve/dashboard.h"
#include "serve/handlers.h"
#include "serve/request_error.h"

namespace onggi {

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

}  // namespace onggi

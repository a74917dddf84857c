// The dashboard: its files, and the numbers that it shows.
#pragma once

#include <optional>
#include <string>

#include "serve/http_server.h"
#include "serve/metrics.h"
#include "serve/query.h"

namespace onggi {

struct DashboardState {
  std::string status;  // "ok", "loading", "stopping"
  double uptime_s = 0;
  int port = 0;
  int ollama_port = 0;
  std::optional<EngineStats> engine;   // absent while the model loads
  const ServedModel* model = nullptr;  // null likewise
  int64_t max_batch = 0;
};

// GET /dashboard/data: state, load over time, percentiles of the requests kept, and the newest 50 of them.
Json dashboard_data(const DashboardState& state, const Metrics& metrics);

// GET /dashboard and /dashboard/NAME; status 404 for another name.
HttpResponse dashboard_file(const std::string& path);

}  // namespace onggi

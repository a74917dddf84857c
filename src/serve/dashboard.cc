#include "serve/dashboard.h"

#include <nlohmann/json.hpp>

#include "base/process.h"
#include "serve/embedded.h"

namespace onggi {
namespace {

constexpr size_t kShownRequests = 50;

Json percentiles_json(const Percentiles& values) {
  return {{"count", values.count}, {"p50", values.p50}, {"p95", values.p95}, {"p99", values.p99}};
}

Json latency_json(const std::vector<RequestRecord>& records) {
  std::vector<double> first_token, total, rate;
  for (const RequestRecord& record : records) {
    if (record.status != 200) continue;
    total.push_back(record.total_s);
    if (record.first_token_s > 0) first_token.push_back(record.first_token_s);
    if (const double speed = tokens_per_second(record); speed > 0) rate.push_back(speed);
  }
  return {{"first_token_s", percentiles_json(percentiles_of(std::move(first_token)))},
          {"total_s", percentiles_json(percentiles_of(std::move(total)))},
          {"tokens_per_s", percentiles_json(percentiles_of(std::move(rate)))}};
}

Json series_json(const std::vector<LoadSample>& samples) {
  Json series = Json::array();
  for (const LoadSample& sample : samples)
    series.push_back({{"time", sample.time},
                      {"tokens_per_s", sample.tokens_per_s},
                      {"prompt_tokens_per_s", sample.prompt_tokens_per_s},
                      {"active", sample.active},
                      {"queued", sample.queued},
                      {"kv_pages_used", sample.kv_pages_used},
                      {"kv_pages_total", sample.kv_pages_total},
                      {"resident_bytes", sample.resident_bytes},
                      {"cpu_cores", sample.cpu_cores}});
  return series;
}

Json recent_json(const std::vector<RequestRecord>& records) {
  Json recent = Json::array();
  for (size_t i = 0; i < std::min(records.size(), kShownRequests); ++i) {
    const RequestRecord& record = records[i];
    recent.push_back({{"id", record.id},
                      {"time", record.time},
                      {"api", record.api},
                      {"status", record.status},
                      {"finish", record.finish},
                      {"prompt_tokens", record.prompt_tokens},
                      {"generated_tokens", record.generated_tokens},
                      {"first_token_s", record.first_token_s},
                      {"total_s", record.total_s},
                      {"tokens_per_s", tokens_per_second(record)}});
  }
  return recent;
}

Json engine_json(const EngineStats& stats, int64_t max_batch) {
  return {{"active", stats.active},
          {"queued", stats.queued},
          {"max_batch", max_batch},
          {"kv_pages_total", stats.kv_pages_total},
          {"kv_pages_used", stats.kv_pages_used},
          {"kv_pages_cached", stats.kv_pages_cached},
          {"kv_bytes", stats.kv_bytes},
          {"prompt_tokens", stats.prompt_tokens},
          {"cached_tokens", stats.cached_tokens},
          {"generated_tokens", stats.generated_tokens},
          {"steps", stats.steps},
          {"step_seconds", stats.step_seconds}};
}

Json model_json(const ServedModel& model) {
  return {{"name", model.names.front()},
          {"names", model.names},
          {"family", model.family},
          {"format", model.format},
          {"parameters", model.parameter_size},
          {"quantization", model.quantization},
          {"size_bytes", model.size_bytes},
          {"context_length", model.context_length},
          {"thinking", model.thinking == ServedModel::Capability::kYes},
          {"tools", model.tools == ServedModel::Capability::kYes}};
}

std::string content_type(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  return "text/javascript; charset=utf-8";
}

}  // namespace

Json dashboard_data(const DashboardState& state, const Metrics& metrics) {
  const auto records = metrics.recent();
  Json data = {{"status", state.status},           {"uptime_s", state.uptime_s},
               {"version", ONGGI_VERSION},         {"port", state.port},
               {"ollama_port", state.ollama_port}, {"requests", metrics.requests()},
               {"errors", metrics.errors()},       {"resident_bytes", resident_memory_bytes()}};
  data["model"] = state.model != nullptr ? model_json(*state.model) : Json();
  data["engine"] = state.engine ? engine_json(*state.engine, state.max_batch) : Json();
  data["latency"] = latency_json(records);
  data["series"] = series_json(metrics.samples());
  data["recent"] = recent_json(records);
  return data;
}

HttpResponse dashboard_file(const std::string& path) {
  constexpr std::string_view kFolder = "/dashboard/";
  std::string_view name = path;
  name = name.starts_with(kFolder) ? name.substr(kFolder.size()) : std::string_view();
  if (name.empty()) name = "index.html";
  HttpResponse response;
  for (const EmbeddedFile& file : embedded_files()) {
    if (file.name != name) continue;
    response.content_type = content_type(name);
    response.body = file.bytes;
    response.headers = {{"Cache-Control", "no-cache"},
                        {"X-Content-Type-Options", "nosniff"},
                        {"Content-Security-Policy",
                         "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
                         "frame-ancestors 'none'"}};
    return response;
  }
  response.status = 404;
  return response;
}

}  // namespace onggi

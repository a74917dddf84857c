// From a path to an answer: the one list of endpoints.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/clock.h"
#include "serve/answering.h"
#include "serve/dashboard.h"
#include "serve/generator.h"
#include "serve/http_server.h"
#include "serve/metrics.h"
#include "serve/query.h"
#include "serve/quota.h"

namespace onggi {

// A model in service.
struct LoadedService {
  LoadedModel model;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Generator> generator;
  ServedModel served;
};

// The state that all requests share. Thread-safe.
class ServiceState {
 public:
  explicit ServiceState(QuotaLimits limits) : quota(limits) {}

  Quota quota;
  Metrics metrics;
  Stopwatch uptime;
  std::atomic<bool> stopping{false};
  int port = 0, ollama_port = 0;
  std::vector<std::string> api_keys, cors_origins;
  enum class HostCheck { kAny, kLocalOnly } host_check = HostCheck::kLocalOnly;
  std::string machine_name;

  // Null while the model loads.
  std::shared_ptr<LoadedService> loaded() const;
  void set_loaded(std::shared_ptr<LoadedService> loaded);

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<LoadedService> loaded_;
};

// Which of the two ports a request came to; they differ in "/" alone.
enum class Listener { kMain, kOllama };

// Never throws for what a client did.
HttpResponse route_request(ServiceState& state, Listener listener, const HttpRequest& request);
// An error in the dialect of the path.
std::string error_body(const std::string& path, int status, const std::string& message,
                       const std::string& field = {});
HttpResponse error_response(const std::string& path, int status, const std::string& message,
                            const std::string& field = {});

}  // namespace onggi

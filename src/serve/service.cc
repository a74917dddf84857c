#include "serve/service.h"

#include <unistd.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/text.h"
#include "serve/access.h"
#include "serve/admission.h"
#include "serve/http_server.h"
#include "serve/memory_plan.h"
#include "serve/routes.h"

namespace onggi {
namespace {

// Between two samples of the dashboard's charts.
constexpr std::chrono::seconds kSampleEvery{1};
// Beside those that wait in the engine's queue: dashboards, scrapes, idle connections.
constexpr int64_t kSpareConnections = 64;

std::string machine_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::string local_url(const ServerConfig& server, int port) {
  const std::string& host = server.host;
  const bool any = host == "0.0.0.0" || host == "::" || host.empty();
  const std::string name = any ? "127.0.0.1" : host.find(':') != std::string::npos ? "[" + host + "]" : host;
  return fmt::format("{}://{}:{}", server.tls_certificate.empty() ? "http" : "https", name, port);
}

}  // namespace

struct Service::Impl {
  explicit Impl(const ServerConfig& config)
      : server(config), state({config.requests_per_minute, config.tokens_per_day}) {
    state.api_keys = config.api_keys;
    state.cors_origins = config.cors_origins;
    state.host_check =
        is_loopback(config.host) ? ServiceState::HostCheck::kLocalOnly : ServiceState::HostCheck::kAny;
    state.machine_name = machine_name();
    main = make_server(Listener::kMain);
    ollama = make_server(Listener::kOllama);
    state.port = main->port();
    state.ollama_port = ollama->port();
  }

  std::unique_ptr<HttpServer> make_server(Listener listener) {
    const bool is_main = listener == Listener::kMain;
    HttpServerOptions options;
    options.name = is_main ? "Onggi's HTTP API" : "Ollama's API";
    options.host = server.host;
    options.port = static_cast<int>(is_main ? server.port : server.ollama_port);
    options.port_setting = is_main ? "server.port (--port)" : "server.ollama_port (--ollama-port)";
    options.max_connections =
        static_cast<int>(server.max_queue + server.max_batch.value_or(kAutoBatchOnGpu) + kSpareConnections);
    options.max_body_bytes = static_cast<uint64_t>(server.max_body_bytes);
    options.tls_certificate = server.tls_certificate;
    options.tls_key = server.tls_key;
    HttpHandlers handlers;
    handlers.admit = [this](const HttpRequest& request) { return admit_request(state, request); };
    handlers.handle = [this, listener](const HttpRequest& request) {
      return route_request(state, listener, request);
    };
    handlers.error_body = [](const std::string& path, int status, const std::string& message) {
      return error_body(path, status, message);
    };
    return std::make_unique<HttpServer>(std::move(options), std::move(handlers));
  }

  void take_samples() {
    std::unique_lock lock(mutex);
    while (!wake.wait_for(lock, kSampleEvery, [this] { return ended; }))
      if (const auto loaded = state.loaded())
        state.metrics.sample(loaded->engine->stats(), state.uptime.seconds());
  }

  void stop_engine(std::chrono::seconds grace);

  const ServerConfig server;
  ServiceState state;
  std::unique_ptr<HttpServer> main, ollama;
  std::mutex mutex;
  std::condition_variable wake;
  bool ended = false;
  bool stopped = false;
  std::thread sampler;
};

// Drains for as long as grace lasts, then cancels; the drain returns then too.
void Service::Impl::stop_engine(std::chrono::seconds grace) {
  const auto loaded = state.loaded();
  if (!loaded) return;
  std::mutex drained_mutex;
  std::condition_variable drained_wake;
  bool drained = false;
  std::thread drain([&] {
    loaded->engine->stop(Engine::StopMode::kDrain);
    const std::lock_guard lock(drained_mutex);
    drained = true;
    drained_wake.notify_all();
  });
  {
    std::unique_lock lock(drained_mutex);
    drained_wake.wait_for(lock, grace, [&] { return drained; });
  }
  loaded->engine->stop(Engine::StopMode::kCancel);
  drain.join();
}

Service::Service(const ServerConfig& server) : impl_(std::make_unique<Impl>(server)) {}

Service::~Service() { stop(std::chrono::seconds(0)); }

void Service::start() {
  impl_->main->start();
  impl_->ollama->start();
  if (!impl_->sampler.joinable()) impl_->sampler = std::thread([this] { impl_->take_samples(); });
}

void Service::load(LoadedModel model, std::unique_ptr<StepRunner> runner, const EngineOptions& options,
                   const ModelLabels& labels) {
  auto loaded = std::make_shared<LoadedService>(LoadedService{std::move(model), nullptr, nullptr, {}});
  loaded->engine = std::make_unique<Engine>(loaded->model.model->config, loaded->model.tokenizer,
                                            std::move(runner), options);
  loaded->generator = std::make_unique<Generator>(loaded->model, *loaded->engine,
                                                  std::chrono::seconds(impl_->server.request_timeout_s));
  loaded->served =
      describe_served_model(loaded->model, labels, *loaded->engine, impl_->server.max_new_tokens);
  impl_->state.set_loaded(std::move(loaded));
}

int Service::port() const { return impl_->state.port; }
int Service::ollama_port() const { return impl_->state.ollama_port; }
std::string Service::url() const { return local_url(impl_->server, port()); }
std::string Service::ollama_url() const { return local_url(impl_->server, ollama_port()); }

const ServedModel& Service::model() const {
  const auto loaded = impl_->state.loaded();
  ONGGI_CHECK(loaded != nullptr, "load() comes first");
  return loaded->served;  // owned by the state, which keeps it
}

EngineStats Service::stats() const {
  const auto loaded = impl_->state.loaded();
  return loaded ? loaded->engine->stats() : EngineStats{};
}

void Service::stop(std::chrono::seconds grace) {
  if (std::exchange(impl_->stopped, true)) return;
  impl_->state.stopping = true;
  impl_->main->stop_accepting();
  impl_->ollama->stop_accepting();
  impl_->stop_engine(grace);
  impl_->main->stop();
  impl_->ollama->stop();
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ended = true;
  }
  impl_->wake.notify_all();
  if (impl_->sampler.joinable()) impl_->sampler.join();
}

}  // namespace onggi

// Stage 6: the service, asked on every API, under load, and held against the file that it serves.
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/human.h"
#include "base/text.h"
#include "eval/validation.h"
#include "pipeline/artefacts.h"
#include "pipeline/service_probe.h"
#include "pipeline/session.h"
#include "serve/loadtest.h"
#include "serve/memory_plan.h"
#include "serve/service.h"

namespace onggi {
namespace {

class Deployment {
 public:
  explicit Deployment(StageContext& context) : context_(context), config_(context.config) {}
  StageOutcome run();

 private:
  void start(const fs::path& gguf);
  nlohmann::ordered_json ask();
  nlohmann::ordered_json load();
  nlohmann::ordered_json compare();
  void print_endpoints() const;
  ProbeTarget target() const {
    return {service_->url(), service_->ollama_url(), config_.ollama_name(),
            config_.server.api_keys.empty() ? "" : config_.server.api_keys.front()};
  }

  StageContext& context_;
  const Config& config_;
  std::vector<std::string> prompts_;
  std::optional<ParityReference> reference_;
  std::optional<Tokenizer> tokenizer_;
  int64_t vocabulary_ = 0;
  EngineOptions options_;
  std::unique_ptr<Service> service_;
  std::string question_;
  double five_users_rate_ = 0;
};

nlohmann::ordered_json Deployment::compare() {
  const ParityResult result =
      probe_parity(target(), *reference_, *tokenizer_, vocabulary_, config_.parity.service);
  ParityGate(context_.reporter).check(result);
  return result.to_json();
}

void Deployment::start(const fs::path& gguf) {
  LoadedModel model = load_chat_model(gguf, {}, context_.threads, context_.device.placement());
  tokenizer_ = model.tokenizer;
  vocabulary_ = model.model->config.vocab_size;
  const Dataset training = load_training_data(config_);
  prompts_ = parity_prompts(config_, training);
  question_ = training.rows.front().question;
  {
    // The file's own answers, before the service takes the threads.
    ComputeSession session(context_.device, context_.threads, Precision::kFast);
    reference_.emplace(model, session.compute(), prompts_, config_.parity.max_new_tokens, gguf.string());
  }
  options_ = plan_engine(config_.server, *model.model, context_.device, context_.memory_budget());
  context_.reporter.say(text("context {} tokens, {} sequences at once, KV cache {}, {} threads",
                             options_.context_length, options_.max_batch,
                             bytes_text(static_cast<double>(options_.kv_bytes)), context_.threads.size()));
  ServerConfig server = config_.server;
  try {
    service_ = std::make_unique<Service>(server);
  } catch (const MachineError& error) {
    // This stage tries the service out; another program on the port (an Ollama, say) need not stop that.
    context_.reporter.warn(text("{}; the trial takes free ports instead", error.what()));
    server.port = 0;
    server.ollama_port = 0;
    service_ = std::make_unique<Service>(server);
  }
  service_->start();
  auto runner = make_runner(model.model, context_.device, context_.threads, options_.precision);
  service_->load(std::move(model), std::move(runner), options_, {{config_.ollama_name()}, ""});
}

nlohmann::ordered_json Deployment::ask() {
  const std::vector<ProbeResult> probes = probe_service(target(), question_);
  for (const ProbeResult& probe : probes) {
    context_.reporter.say(text("{:<28} {:>4}  {:.2f} s  {}", probe.api, probe.status, probe.seconds,
                               probe.problem.empty() ? text("answered") : probe.problem));
    if (!probe.problem.empty())
      throw WorkError(text("the service does not answer {}: {}", probe.api, probe.problem));
  }
  return to_json(probes);
}

nlohmann::ordered_json Deployment::load() {
  auto results = nlohmann::ordered_json::array();
  for (int64_t users : config_.loadtest.users) {
    LoadTestOptions options;
    options.url = service_->url();
    options.api_key = target().api_key;
    options.users = users;
    options.requests_per_user = config_.loadtest.requests_per_user;
    options.max_new_tokens = config_.loadtest.max_new_tokens;
    const LoadTestResult result = run_load_test(options);
    if (result.errors > 0)
      throw WorkError(text("{} of {} requests failed under a load of {} users: {}", result.errors,
                           result.requests, users, result.first_error));
    context_.reporter.say(
        text("{} users: {:.1f} tok/s, first token p50 {:.0f} ms p95 {:.0f} ms p99 {:.0f} ms, answer p50 "
             "{:.2f} s p95 {:.2f} s",
             users, result.tokens_per_s, 1e3 * result.first_token_s.p50, 1e3 * result.first_token_s.p95,
             1e3 * result.first_token_s.p99, result.total_s.p50, result.total_s.p95));
    five_users_rate_ = result.tokens_per_s;
    results.push_back(nlohmann::ordered_json::parse(to_json(result)));
  }
  return results;
}

void Deployment::print_endpoints() const {
  const std::string host = "http://" + config_.server.host + ":" + std::to_string(config_.server.port);
  const std::string ollama =
      "http://" + config_.server.host + ":" + std::to_string(config_.server.ollama_port);
  context_.reporter.say(text("onggi serve puts it into service:"));
  context_.reporter.say("  GET  " + host + "/health\n  POST " + host + "/chat\n  POST " + host +
                        "/v1/chat/completions\n  GET  " + host + "/metrics\n  GET  " + host +
                        "/dashboard\n  POST " + ollama + "/api/generate\n  POST " + ollama + "/api/chat");
}

StageOutcome Deployment::run() {
  const auto converted = require_results(context_, "convert");
  const fs::path gguf = converted.at("served").get<std::string>();
  confirm_converted(context_);
  start(gguf);
  nlohmann::ordered_json report = {{"served", gguf.string()},
                                   {"model", config_.ollama_name()},
                                   {"context_length", options_.context_length},
                                   {"max_batch", options_.max_batch},
                                   {"kv_bytes", options_.kv_bytes},
                                   {"threads", context_.threads.size()}};
  report["probes"] = ask();
  report["parity"] = compare();
  report["load"] = load();
  service_->stop(std::chrono::seconds(5));
  const fs::path file = config_.adapter_dir() / "deploy_report.json";
  write_file(file, report.dump(2) + "\n");
  context_.reporter.say(text("report: {}", file.string()));
  print_endpoints();
  StageOutcome outcome;
  outcome.results = report;
  outcome.outputs = {file};
  outcome.summary = text("every API answers, {:.0f} tok/s at {} users", five_users_rate_,
                         config_.loadtest.users.empty() ? 0 : config_.loadtest.users.back());
  return outcome;
}

}  // namespace

StageOutcome run_deploy(StageContext& context) { return Deployment(context).run(); }

}  // namespace onggi

// onggi serve: a model behind HTTP until it is asked to stop.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <thread>

#include "base/human.h"
#include "base/process.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "config/config.h"
#include "device/machine.h"
#include "formats/gguf.h"
#include "kernels/table.h"
#include "quantize/recipes.h"
#include "registry/registry.h"
#include "serve/memory_plan.h"
#include "serve/service.h"

namespace onggi {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  std::string model, adapter;
  std::vector<std::string> names, api_keys;
  std::string host, device;
  std::optional<int64_t> port, ollama_port, context, batch;
  int threads = 0;
  int64_t grace_s = 30;
  bool load_in_4bit = false;
};

Config read_config(const Options& options) {
  std::optional<fs::path> file;
  if (!options.config.empty())
    file = options.config;
  else if (fs::exists("onggi.toml"))
    file = "onggi.toml";
  Config config = load_config(file, options.overrides);
  ServerConfig& server = config.server;
  if (!options.host.empty()) server.host = options.host;
  if (options.port) server.port = *options.port;
  if (options.ollama_port) server.ollama_port = *options.ollama_port;
  if (options.context) server.context_length = options.context;
  if (options.batch) server.max_batch = options.batch;
  server.api_keys.insert(server.api_keys.end(), options.api_keys.begin(), options.api_keys.end());
  return config;
}

// "registry:NAME" is the promoted version, "registry:NAME@VERSION" a certain one; checked before it is
// served.
fs::path registered_path(const std::string& reference, const Config& config) {
  const size_t at = reference.find('@');
  Registry registry(config.registry_dir());
  const ModelVersion version =
      registry.find(reference.substr(0, at), at == std::string::npos ? "promoted" : reference.substr(at + 1));
  registry.verify(version);
  return version.path;
}

// What was asked for, else what the pipeline left last: the file that it deploys, else the merged model.
fs::path model_path(const Options& options, const Config& config) {
  constexpr std::string_view kRegistered = "registry:";
  if (options.model.starts_with(kRegistered))
    return registered_path(options.model.substr(kRegistered.size()), config);
  if (!options.model.empty()) return options.model;
  if (!config.gguf.types.empty() && fs::exists(config.gguf_path(config.gguf.types.front())))
    return config.gguf_path(config.gguf.types.front());
  if (fs::exists(config.merged_dir() / "config.json")) return config.merged_dir();
  throw InputError(text("there is no {} yet; make it with onggi run, or name a model with --model",
                        config.gguf.types.empty() ? config.merged_dir().string()
                                                  : config.gguf_path(config.gguf.types.front()).string()));
}

// "Q4_K_M" by the type that a GGUF file states; empty where it states none (then the weights tell).
std::string quantization_of(const fs::path& path) {
  if (!fs::is_regular_file(path)) return "";
  const MappedFile file(path);
  const auto type = parse_gguf(file.bytes(), path.string()).find_int("general.file_type");
  for (const RecipeInfo& recipe : recipes())
    if (type == static_cast<int64_t>(recipe.gguf_file_type)) return std::string(recipe.name);
  return "";
}

// The name in the configuration belongs to what the pipeline made; another model goes by its own.
ModelLabels labels_of(const Options& options, const Config& config, const LoadedModel& model,
                      const fs::path& path) {
  ModelLabels labels{options.names, quantization_of(path)};
  if (options.model.starts_with("registry:"))
    labels.names.push_back(options.model.substr(9, options.model.find('@') - 9));
  if (options.model.empty()) labels.names.push_back(config.ollama_name());
  labels.names.push_back(model.name);
  std::vector<std::string> unique;
  for (std::string& name : labels.names)
    if (!name.empty() && std::find(unique.begin(), unique.end(), name) == unique.end())
      unique.push_back(std::move(name));
  labels.names = std::move(unique);
  return labels;
}

std::string endpoints(const Service& service) {
  std::string out;
  const auto line = [&](const std::string& url, const char* what) {
    out += fmt::format("  {:<52} {}\n", url, what);
  };
  const std::string main = service.url(), ollama = service.ollama_url();
  line("GET  " + main + "/health", translate("whether it runs"));
  line("POST " + main + "/chat", translate("{\"message\": \"...\"} -> {\"response\": \"...\"}"));
  line("POST " + main + "/v1/chat/completions", translate("OpenAI's API; base URL .../v1"));
  line("GET  " + main + "/dashboard", translate("charts and a chat, in the browser"));
  line("GET  " + main + "/metrics", translate("for Prometheus"));
  line("POST " + ollama + "/api/chat", translate("Ollama's API"));
  line("POST " + ollama + "/api/generate", translate("Ollama's API"));
  return out;
}

void wait_for_stop() {
  while (!stop_requested()) std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

ExitCode serve(const Options& options) {
  install_stop_handler();
  const Terminal terminal(stdout);
  const Config config = read_config(options);
  const fs::path path = model_path(options, config);
  const Machine machine = describe_machine();
  ComputeDevice device =
      open_device(options.device.empty() ? name_of(config.device) : options.device, machine);
  ThreadPool threads(options.threads > 0 ? options.threads : static_cast<int>(config.threads.value_or(0)));
  // Ports first: a taken one is told before minutes of loading.
  Service service(config.server);
  service.start();
  terminal.write(text("loading {} ...", path.string()) + "\n");
  LoadOptions load;
  if (options.load_in_4bit) load.quantization = LoadQuantization::kNf4;
  if (!options.adapter.empty()) load.adapter = options.adapter;
  LoadedModel model = load_chat_model(path, load, threads, device.placement());
  const ModelLabels labels = labels_of(options, config, model, path);
  const uint64_t memory = config.memory_budget ? config.memory_budget->bytes : device.usable_bytes(machine);
  const EngineOptions engine = plan_engine(config.server, *model.model, device, memory);
  auto runner = make_runner(model.model, device, threads, engine.precision);
  service.load(std::move(model), std::move(runner), engine, labels);
  const ServedModel& served = service.model();
  terminal.write(text("{} ({}, {}) is in service: {} tokens of context, {} answers at once, KV cache {}",
                      served.names.front(), served.parameter_size, served.quantization, engine.context_length,
                      engine.max_batch, bytes_text(static_cast<double>(engine.kv_bytes))) +
                 "\n" + endpoints(service) + text("Ctrl-C stops it.") + "\n");
  std::fflush(stdout);
  wait_for_stop();
  terminal.write("\n" + text("stopping; answers in work get {} s to end", options.grace_s) + "\n");
  service.stop(std::chrono::seconds(options.grace_s));
  return ExitCode::kDone;
}

}  // namespace

RunCommand setup_serve(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("-c,--config", options->config,
                 text("The configuration; else onggi.toml where there is one"));
  app.add_option(
      "--model,-m", options->model,
      text("A Hugging Face folder, a GGUF file, or registry:NAME[@VERSION]; else what the pipeline made"));
  app.add_option("--adapter", options->adapter, text("A PEFT adapter folder on top of the model"));
  app.add_flag("--load-in-4bit", options->load_in_4bit,
               text("Quantise the projections to NF4 while loading, as in training"));
  app.add_option("--name", options->names,
                 text("What clients may call the model; may be given several times"));
  app.add_option("--host", options->host, text("Address to listen on; 0.0.0.0 for all of this machine's"));
  app.add_option("--port,-p", options->port,
                 text("Port of /chat, /v1, /metrics and /dashboard; 0: any free one"))
      ->check(CLI::Range(0, 65535));
  app.add_option("--ollama-port", options->ollama_port, text("Port of Ollama's API; 0: any free one"))
      ->check(CLI::Range(0, 65535));
  app.add_option("--context", options->context, text("Tokens of prompt and answer; else from the memory"))
      ->check(CLI::PositiveNumber);
  app.add_option("--max-batch", options->batch, text("Answers that are written at once"))
      ->check(CLI::Range(1, 4096));
  app.add_option("--api-key", options->api_keys,
                 text("Ask clients for this key; may be given several times"));
  app.add_option("--device", options->device, text("auto, cpu or cuda"));
  app.add_option("--threads", options->threads, text("Threads that compute; 0: all CPUs"))
      ->check(CLI::Range(0, 4096));
  app.add_option("--grace", options->grace_s, text("Seconds that answers in work get when it stops"))
      ->check(CLI::Range(0, 86400));
  app.add_option("overrides", options->overrides,
                 text("key=value, stronger than the file; e.g. server.max_queue=200"));
  return [options] { return serve(*options); };
}

}  // namespace onggi

// `onggi run` and the seven stages.
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/process.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/terminal_reporter.h"
#include "pipeline/check.h"
#include "pipeline/stage.h"

namespace onggi {
namespace {

struct ConfigOptions {
  std::string file;
  std::vector<std::string> overrides;
};

void add_config_options(CLI::App& app, ConfigOptions& options) {
  app.add_option("-c,--config", options.file, text("The configuration; else onggi.toml where there is one"));
  app.add_option("overrides", options.overrides,
                 text("key=value, stronger than the file; e.g. training.max_steps=200"));
}

Config read_config(const ConfigOptions& options) {
  std::optional<fs::path> file;
  if (!options.file.empty()) {
    file = options.file;
  } else if (fs::exists("onggi.toml")) {
    file = "onggi.toml";
  }
  return load_config(file, options.overrides);
}

ExitCode run_range(const Config& config, const RunRange& range) {
  install_stop_handler();
  const Terminal terminal(stdout);
  TerminalReporter reporter(terminal);
  const Machine machine = describe_machine();
  Manifest manifest(config.manifest_path());
  ThreadPool threads(static_cast<int>(config.threads.value_or(0)));
  ComputeDevice device = open_device(name_of(config.device), machine);
  StageContext context{config, machine, manifest, reporter, threads, device};
  const auto summaries = run_stages(context, range);
  if (summaries.size() < 2) return ExitCode::kDone;
  Table table({text("stage"), text("time"), text("result")}, {Align::kLeft, Align::kRight, Align::kLeft});
  double total = 0;
  for (const StageSummary& summary : summaries) {
    table.add({summary.name, summary.skipped ? text("done before") : duration_text(summary.seconds),
               summary.summary});
    total += summary.seconds;
  }
  table.add({text("in all"), duration_text(total), config.manifest_path().string()});
  terminal.write("\n" + table.to_string(terminal));
  return ExitCode::kDone;
}

}  // namespace

RunCommand setup_run(CLI::App& app) {
  struct Options : ConfigOptions {
    std::string from, to;
  };
  auto options = std::make_shared<Options>();
  add_config_options(app, *options);
  app.add_option("--from", options->from, text("The first stage; it and all later ones run again"));
  app.add_option("--to", options->to, text("The last stage"));
  return [options] {
    const Config config = read_config(*options);
    RunRange range;
    if (!options->from.empty()) {
      range.from = find_stage(options->from).number;
      range.done = RunRange::Done::kRunAgain;
    }
    if (!options->to.empty()) range.to = find_stage(options->to).number;
    if (range.to < range.from)
      throw UsageError(text("--to {} comes before --from {}", options->to, options->from));
    return run_range(config, range);
  };
}

RunCommand setup_stage(CLI::App& app, const char* stage) {
  auto options = std::make_shared<ConfigOptions>();
  add_config_options(app, *options);
  const int number = find_stage(stage).number;
  return [options, number] {
    return run_range(read_config(*options), {number, number, RunRange::Done::kRunAgain});
  };
}

RunCommand setup_check(CLI::App& app) {
  struct Options : ConfigOptions {
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  add_config_options(app, *options);
  app.add_flag("--json", options->json, text("Print JSON"));
  return [options] {
    const CheckReport report = check_machine(read_config(*options));
    Terminal(stdout).write(options->json ? report.to_json() + "\n" : report.to_text());
    return report.falls_short() ? ExitCode::kMachine : ExitCode::kDone;
  };
}

}  // namespace onggi

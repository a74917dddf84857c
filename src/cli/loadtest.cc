// onggi loadtest: how a running service holds up under several users.
#include "serve/loadtest.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "base/process.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/terminal.h"

namespace onggi {
namespace {

struct Options {
  LoadTestOptions test;
  std::vector<int64_t> users = {1, 2, 5};
  bool json = false;
};

std::string milliseconds(double seconds) { return fmt::format("{:.0f} ms", seconds * 1000); }

ExitCode run(const Options& options) {
  install_stop_handler();
  const Terminal terminal(stdout);
  Table table({text("users"), text("requests"), text("errors"), text("tokens/s"), text("per user"),
               text("first token p50"), text("p95"), text("answer p50"), text("p95"), text("p99")},
              std::vector<Align>(10, Align::kRight));
  std::string json, first_error;
  for (const int64_t users : options.users) {
    LoadTestOptions test = options.test;
    test.users = users;
    const LoadTestResult result = run_load_test(test);
    if (stop_requested()) throw Interrupted(text("the load test was interrupted"));
    json += (json.empty() ? "" : ",") + to_json(result);
    if (first_error.empty()) first_error = result.first_error;
    table.add({std::to_string(users), std::to_string(result.requests), std::to_string(result.errors),
               fmt::format("{:.1f}", result.tokens_per_s),
               fmt::format("{:.1f}", result.per_user_tokens_per_s.p50),
               milliseconds(result.first_token_s.p50), milliseconds(result.first_token_s.p95),
               milliseconds(result.total_s.p50), milliseconds(result.total_s.p95),
               milliseconds(result.total_s.p99)});
  }
  terminal.write(options.json ? "[" + json + "]\n" : table.to_string(terminal));
  if (!first_error.empty()) throw WorkError(text("some requests failed; the first one: {}", first_error));
  return ExitCode::kDone;
}

}  // namespace

RunCommand setup_loadtest(CLI::App& app) {
  auto options = std::make_shared<Options>();
  options->test.url = "http://127.0.0.1:8000";
  app.add_option("--url", options->test.url, text("The service; any that speaks OpenAI's API"))
      ->capture_default_str();
  app.add_option("--users,-u", options->users,
                 text("Requests in flight at once; several numbers: one test each"))
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  app.add_option("--requests", options->test.requests_per_user, text("Requests of each user"))
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--max-tokens,-n", options->test.max_new_tokens, text("The longest answer, in tokens"))
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  auto* prompts =
      app.add_option("--prompt", options->test.prompts, text("A prompt; may be given several times"));
  app.add_option("--prompt-words", options->test.prompt_words,
                 text("Prompts of so many random words, each another, that no service has read before"))
      ->check(CLI::PositiveNumber)
      ->excludes(prompts);
  app.add_option("--api-key", options->test.api_key, text("The key that the service asks for"));
  app.add_flag("--json", options->json, text("Print JSON"));
  return [options] { return run(*options); };
}

}  // namespace onggi

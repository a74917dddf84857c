// Subcommands: one file each. A new one is declared here and gets its line in main.cc's table.
#pragma once

#include <functional>

#include "base/error.h"

namespace CLI {
class App;
}

namespace onggi {

// Runs a command whose options were parsed.
using RunCommand = std::function<ExitCode()>;

struct Command {
  const char* name;
  const char* description;  // in English; translated when it is shown
  // Declares the options on `app` and returns what runs with their values.
  RunCommand (*setup)(CLI::App& app);
};

RunCommand setup_run(CLI::App& app);
RunCommand setup_check(CLI::App& app);
RunCommand setup_stage(CLI::App& app, const char* stage);
RunCommand setup_quantize(CLI::App& app);
RunCommand setup_inspect(CLI::App& app);
RunCommand setup_bench(CLI::App& app);
RunCommand setup_generate(CLI::App& app);
RunCommand setup_chat(CLI::App& app);
RunCommand setup_tokenize(CLI::App& app);
RunCommand setup_serve(CLI::App& app);
RunCommand setup_loadtest(CLI::App& app);
RunCommand setup_models(CLI::App& app);

}  // namespace onggi

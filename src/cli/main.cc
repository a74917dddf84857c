// The table of subcommands.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/parse_error.h"

namespace onggi {
namespace {

constexpr Command kCommands[] = {
    {"run", "All stages, from the base model to the service", setup_run},
    {"check", "Stage 0: does this machine suffice?", setup_check},
    {"setup", "Stage 1: get the base model", [](CLI::App& app) { return setup_stage(app, "setup"); }},
    {"train", "Stage 2: fine-tune with QLoRA", [](CLI::App& app) { return setup_stage(app, "train"); }},
    {"validate", "Stage 3: what did the model learn?",
     [](CLI::App& app) { return setup_stage(app, "validate"); }},
    {"merge", "Stage 4: adapter and base become one model",
     [](CLI::App& app) { return setup_stage(app, "merge"); }},
    {"convert", "Stage 5: GGUF files and Ollama", [](CLI::App& app) { return setup_stage(app, "convert"); }},
    {"deploy", "Stage 6: try the service out", [](CLI::App& app) { return setup_stage(app, "deploy"); }},
    {"chat", "Talk to a model in the terminal", setup_chat},
    {"serve", "Put a model into service over HTTP", setup_serve},
    {"generate", "Continue one prompt, or score it", setup_generate},
    {"tokenize", "Turn text into the ids of a model's tokenizer", setup_tokenize},
    {"quantize", "Write a GGUF file of any type", setup_quantize},
    {"inspect", "What is in a model file or folder", setup_inspect},
    {"bench", "Measure this machine at the shape of a Qwen3 model", setup_bench},
    {"loadtest", "Load a running service with several users", setup_loadtest},
    {"models", "The register of model versions", setup_models},
};

// The descriptions of the options are texts too, so the language has to be known before they are declared.
std::string language_of(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--lang" && i + 1 < argc) return argv[i + 1];
    if (argument.starts_with("--lang=")) return std::string(argument.substr(7));
  }
  return "";
}

// Parses and runs; what went wrong is thrown.
ExitCode run(int argc, char** argv) {
  CLI::App app(text("Onggi trains, checks, converts and serves Qwen3 models."), "onggi");
  app.require_subcommand(1);
  app.fallthrough();
  // The library's own words, for this command line and all below it.
  app.get_formatter()->label("Usage", text("Usage"));
  app.get_formatter()->label("Positionals", text("Positionals"));
  app.option_defaults()->group(text("Options"));
  app.set_help_flag("-h,--help", text("Print this help and exit"));
  app.set_version_flag("--version", ONGGI_VERSION, text("Print the version and exit"));
  std::string language, log_level = "warning";
  app.add_option("--lang", language, text("Language of messages: en or ko; else the locale's"))
      ->check(CLI::IsMember({"en", "ko"}));
  app.add_option("--log-level", log_level, text("What is logged: debug, info, warning or error"))
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
  std::vector<std::pair<CLI::App*, RunCommand>> commands;
  for (const Command& command : kCommands) {
    CLI::App* sub = app.add_subcommand(command.name, translate(command.description));
    sub->group(text("Commands"));
    sub->set_help_flag("-h,--help", text("Print this help and exit"));
    commands.emplace_back(sub, command.setup(*sub));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // Help and version are exceptions too, with code 0; all others are wrong use.
    if (error.get_exit_code() != 0) throw UsageError(explain(error));
    app.exit(error);
    return ExitCode::kDone;
  }
  set_log_level(log_level.c_str());
  for (const auto& [sub, run_command] : commands) {
    if (sub->parsed()) return run_command();
  }
  return ExitCode::kUsage;
}

int fail(ExitCode code, const std::string& message) {
  std::fflush(stdout);
  std::fprintf(stderr, "onggi: %s\n", message.c_str());
  return static_cast<int>(code);
}

}  // namespace
}  // namespace onggi

int main(int argc, char** argv) {
  using onggi::ExitCode;
  using onggi::text;
  try {
    onggi::set_language(onggi::language_of(argc, argv));
    return static_cast<int>(onggi::run(argc, argv));
  } catch (const onggi::Error& error) {
    return onggi::fail(error.exit_code(), error.what());
  } catch (const std::bad_alloc&) {
    return onggi::fail(
        ExitCode::kMachine,
        text("the machine has no memory left; close other programs or choose a smaller model"));
  } catch (const std::exception& error) {
    return onggi::fail(
        ExitCode::kWorkFailed,
        text("a bug in Onggi: {}; please report it with the command that you ran", error.what()));
  }
}

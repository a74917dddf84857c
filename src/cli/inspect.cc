// `onggi inspect`: what is in a safetensors file, a GGUF file, an adapter or a Hugging Face folder.
#include "formats/inspect.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/human.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "tensor/tensor.h"

namespace onggi {
namespace {

void print(const nlohmann::json& description, const Terminal& terminal) {
  terminal.write(
      text("{}: {}", description.at("path").get<std::string>(), description.at("kind").get<std::string>()) +
      "\n");
  for (const char* part : {"config", "metadata"}) {
    if (!description.contains(part) || description[part].empty()) continue;
    terminal.write(terminal.paint(Colour::kBold, part) + "\n");
    for (const auto& [key, value] : description[part].items()) {
      std::string shown = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      terminal.write("  " + key + ": " + std::string(fit_columns(shown, 160)) + "\n");
    }
  }
  Table table({text("tensor"), text("type"), text("shape"), text("bytes")},
              {Align::kLeft, Align::kLeft, Align::kLeft, Align::kRight});
  for (const auto& tensor : description.at("tensors"))
    table.add({tensor.at("name").get<std::string>(), tensor.at("dtype").get<std::string>(),
               shape_text(tensor.at("shape").get<Shape>()),
               std::to_string(tensor.at("bytes").get<uint64_t>())});
  terminal.write(table.to_string(terminal));
  const auto& totals = description.at("totals");
  terminal.write(text("{} tensors, {} weights, {}", totals.at("tensors").get<uint64_t>(),
                      totals.at("elements").get<uint64_t>(), bytes_text(totals.at("bytes").get<double>())) +
                 "\n");
}

}  // namespace

RunCommand setup_inspect(CLI::App& app) {
  struct Options {
    std::string path;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  app.add_option("path", options->path, text("A .safetensors or .gguf file, or a folder"))->required();
  app.add_flag("--json", options->json, text("Print JSON"));
  return [options] {
    const nlohmann::json description = describe(options->path);
    const Terminal terminal(stdout);
    if (options->json) {
      terminal.write(description.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    } else {
      print(description, terminal);
    }
    return ExitCode::kDone;
  };
}

}  // namespace onggi

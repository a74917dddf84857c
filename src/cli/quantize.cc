// `onggi quantize`: an HF folder (with or without an adapter) or a GGUF file -> GGUF.
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/human.h"
#include "base/process.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "quantize/convert.h"

namespace onggi {

RunCommand setup_quantize(CLI::App& app) {
  struct Options {
    std::string model, adapter, output, type = "q4_k_m", importance;
    int threads = 0;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  app.add_option("model", options->model, text("A Hugging Face folder or a GGUF file"))->required();
  app.add_option("output", options->output, text("The GGUF file to write"))->required();
  app.add_option("--type", options->type, text("f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, ... q2_k"));
  app.add_option("--adapter", options->adapter, text("A PEFT adapter folder whose change is added"));
  app.add_option("--imatrix", options->importance,
                 text("An importance matrix as GGUF (llama-imatrix writes them)"));
  app.add_option("--threads", options->threads, text("CPU threads; 0: all"));
  app.add_flag("--json", options->json, text("Print JSON"));
  return [options] {
    install_stop_handler();
    const Terminal terminal(stderr);
    ThreadPool threads(options->threads);
    ConvertOptions convert;
    convert.source = options->model;
    convert.adapter = options->adapter;
    convert.output = options->output;
    convert.recipe = parse_recipe(options->type);
    ImportanceMatrix importance;
    if (!options->importance.empty()) {
      importance = read_importance_matrix(options->importance);
      convert.importance = &importance;
    }
    Progress progress(terminal, options->type, ProgressUnit::kItems, 0);
    convert.progress = [&](const ConvertProgress& step) {
      if (stop_requested()) throw Interrupted(text("stopped; nothing was written"));
      progress.set_total(step.weights_total);
      progress.update(step.weights_done, step.tensor);
    };
    const ConvertResult result = convert_to_gguf(convert, threads);
    progress.finish();
    for (const std::string& warning : result.warnings) terminal.write(text("note: {}", warning) + "\n");
    if (options->json) {
      const nlohmann::ordered_json json = {{"file", options->output},
                                           {"bytes", result.file_bytes},
                                           {"bits_per_weight", result.bits_per_weight},
                                           {"relative_error", result.relative_error},
                                           {"seconds", result.seconds},
                                           {"peak_memory_bytes", peak_memory_bytes()}};
      Terminal(stdout).write(json.dump() + "\n");
    } else {
      Terminal(stdout).write(text("{}: {}, {:.2f} bits per weight, relative error {:.2e}, {}, peak memory {}",
                                  options->output, bytes_text(static_cast<double>(result.file_bytes)),
                                  result.bits_per_weight, result.relative_error,
                                  duration_text(result.seconds),
                                  bytes_text(static_cast<double>(peak_memory_bytes()))) +
                             "\n");
    }
    return ExitCode::kDone;
  };
}

}  // namespace onggi

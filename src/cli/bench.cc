// `onggi bench`: training, prefill, decode, quantisation and merge at the shape of any Qwen3 model, with
// random weights. Each figure comes with the operations or bytes that it took and its ratio to what this
// machine reaches in the same run.
#include "cli/bench.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/terminal.h"

namespace onggi {

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Weights that each token is multiplied with, without the embedding's look-up.
double body_weights(const ModelConfig& c) {
  return static_cast<double>(c.num_layers) *
         static_cast<double>(c.hidden_size * (2 * c.q_size() + 2 * c.kv_size() + 3 * c.intermediate_size));
}
double head_weights(const ModelConfig& c) { return static_cast<double>(c.vocab_size * c.hidden_size); }

Bench::Bench(const BenchOptions& options)
    : options_(options),
      device_(open_device(options.device, describe_machine())),
      threads_(options.threads),
      session_(device_, threads_, Precision::kFast),
      compute_(session_.compute()),
      config_(published_config(options.shape)) {}

RandomBody Bench::body(const char* fallback) const {
  const std::string name = options_.weights.empty() ? fallback : options_.weights;
  if (name == "bf16") return RandomBody::kBF16;
  if (name == "nf4") return RandomBody::kNf4;
  if (name == "q8_0") return RandomBody::kQ8_0;
  if (name == "q4_k_m") return RandomBody::kQ4_K_M;
  throw UsageError(text("--weights takes bf16, nf4, q8_0 or q4_k_m, not '{}'", name));
}

std::vector<int32_t> Bench::random_tokens(int64_t count, uint64_t stream) const {
  Random random(1, stream);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i)
    tokens.push_back(static_cast<int32_t>(random.below(static_cast<uint32_t>(config_.vocab_size))));
  return tokens;
}

void Bench::print(const std::string& title) const {
  const Terminal terminal(stdout);
  if (options_.json) {
    nlohmann::ordered_json json = {{"bench", title}, {"shape", options_.shape}, {"threads", threads_.size()}};
    for (const BenchFigure& figure : figures_)
      json["figures"].push_back({{"name", figure.name}, {"value", figure.value}, {"unit", figure.unit}});
    terminal.write(json.dump() + "\n");
    return;
  }
  Table table({text("{}, {}, {} threads", title, options_.shape, threads_.size()), "", ""},
              {Align::kLeft, Align::kRight, Align::kLeft});
  for (const BenchFigure& figure : figures_)
    table.add({figure.name, fmt::format("{:.4g}", figure.value), figure.unit});
  terminal.write(table.to_string(terminal));
}

RunCommand setup_bench(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  auto what = std::make_shared<std::string>();
  app.add_option("what", *what, text("train, prefill, decode, quantize or merge"))
      ->required()
      ->check(CLI::IsMember({"train", "prefill", "decode", "quantize", "merge"}));
  app.add_option("--shape", options->shape, text("A published model, e.g. qwen3-0.6b or qwen3-8b"));
  app.add_option("--weights", options->weights, text("Weights of the body: bf16, nf4, q8_0 or q4_k_m"));
  app.add_option("--tokens", options->tokens, text("Tokens of a sample, a prompt or a context"))
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--users", options->users, text("Sequences that share each step"))
      ->check(CLI::Range(1, 256));
  app.add_option("--repeats", options->repeats, text("Measured runs; the median is shown"))
      ->check(CLI::Range(1, 100));
  app.add_option("--threads", options->threads, text("CPU threads; 0: all"));
  app.add_option("--type", options->type, text("GGUF type to quantise to"));
  app.add_option("--folder", options->folder, text("Where files of quantize and merge go"));
  app.add_option("--micro-batch", options->micro_batch, text("Samples side by side in a pass of training"))
      ->check(CLI::Range(1, 4096));
  app.add_option("--accumulation", options->accumulation, text("Passes of a training step"))
      ->check(CLI::Range(1, 4096));
  app.add_option("--dropout", options->dropout, text("LoRA dropout of the training step"))
      ->check(CLI::Range(0.0, 0.99));
  app.add_option("--device", options->device, text("auto, cpu or cuda"));
  app.add_option("--memory-budget", options->memory_budget,
                 text("Plan the passes of training for so much memory, e.g. 8GiB"));
  app.add_flag("--recompute", options->recompute,
               text("Keep each block's input alone and recompute the rest"));
  app.add_flag("--adapter", options->adapter, text("Decode and prefill with a LoRA adapter"));
  app.add_flag("--json", options->json, text("Print JSON"));
  return [options, what] {
    Bench bench(*options);
    if (*what == "train") bench.train();
    if (*what == "prefill") bench.prefill();
    if (*what == "decode") bench.decode();
    if (*what == "quantize") bench.quantize();
    if (*what == "merge") bench.merge();
    bench.print(*what);
    return ExitCode::kDone;
  };
}

}  // namespace onggi

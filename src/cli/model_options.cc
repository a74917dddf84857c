#include "cli/model_options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "base/text.h"
#include "kernels/table.h"

namespace onggi {

void add_model_options(CLI::App& app, ModelOptions& options) {
  app.add_option("--model,-m", options.path, text("A Hugging Face folder or a GGUF file"))->required();
  app.add_option("--adapter", options.adapter, text("A PEFT adapter folder on top of the model"));
  app.add_flag("--load-in-4bit", options.load_in_4bit,
               text("Quantise the projections to NF4 while loading, as in training"));
  app.add_option("--threads", options.threads, text("Threads that compute; 0: all CPUs"))
      ->check(CLI::Range(0, 4096));
  app.add_option("--device", options.device, text("auto, cpu or cuda"));
  const std::map<std::string, Precision> precisions = {{"fast", Precision::kFast}, {"f32", Precision::kF32}};
  app.add_option("--precision", options.precision,
                 text("fast: bf16 and int8 inputs of matrix products; f32: the reference"))
      ->transform(CLI::CheckedTransformer(precisions).description(""));
}

void add_answer_options(CLI::App& app, AnswerOptions& options) {
  app.add_option("--temperature", options.temperature, text("0: always the most likely token"));
  app.add_option("--top-k", options.top_k, text("Draw from so many of the most likely tokens; 0: all"));
  app.add_option("--top-p", options.top_p, text("Draw from the likeliest tokens with this share in all"));
  app.add_option("--min-p", options.min_p, text("Draw from tokens of at least this share of the best one"));
  app.add_option("--repeat-penalty", options.repeat_penalty, text("Above 1: less of what was said already"));
  app.add_option("--seed", options.seed, text("The same seed draws the same answer"));
  app.add_option("--max-tokens,-n", options.max_tokens, text("The longest answer, in tokens"))
      ->check(CLI::PositiveNumber);
  app.add_option("--stop", options.stop, text("End the answer before this text; may be given several times"));
  app.add_flag("--think,!--no-think", options.think,
               text("Let the model reason first, or not; else as it was trained"));
}

SamplingParams sampling_of(const AnswerOptions& options, const ModelConfig& config) {
  SamplingParams params;
  params.temperature = options.temperature.value_or(config.temperature);
  params.top_k = options.top_k.value_or(config.top_k);
  params.top_p = options.top_p.value_or(config.top_p);
  params.min_p = options.min_p.value_or(params.min_p);
  params.repeat_penalty = options.repeat_penalty.value_or(params.repeat_penalty);
  params.seed = options.seed;
  return params;
}

OpenModel open_model(const ModelOptions& options) {
  auto threads = std::make_unique<ThreadPool>(options.threads);
  LoadOptions load;
  if (options.load_in_4bit) load.quantization = LoadQuantization::kNf4;
  if (!options.adapter.empty()) load.adapter = options.adapter;
  auto device = std::make_unique<ComputeDevice>(select_device(options.device, describe_machine()).device);
  LoadedModel loaded = load_chat_model(options.path, load, *threads, device->placement());
  return {std::move(device), std::move(threads), std::move(loaded)};
}

std::unique_ptr<Engine> single_engine(const OpenModel& model, Precision precision, int64_t context) {
  const ModelConfig& config = model.loaded.model->config;
  EngineOptions options;
  options.context_length = std::clamp<int64_t>(context, 2, config.max_position_embeddings);
  options.max_batch = 1;
  options.kv_dtype = precision == Precision::kF32 ? DType::kF32 : DType::kBF16;
  options.prefill_chunk = usual_prefill_chunk(model.device->device().kind);
  options.precision = precision;
  return std::make_unique<Engine>(config, model.loaded.tokenizer,
                                  make_runner(model.loaded.model, *model.device, *model.threads, precision),
                                  options);
}

}  // namespace onggi

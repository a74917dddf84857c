// The options that choose a model and how it answers, shared by chat and generate.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/threads.h"
#include "infer/chat_model.h"
#include "infer/engine.h"

namespace CLI {
class App;
}

namespace onggi {

struct ModelOptions {
  std::string path;
  std::string adapter;        // empty: none
  bool load_in_4bit = false;  // a flag of the command line
  int threads = 0;            // 0: all CPUs
  Precision precision = Precision::kFast;
  std::string device = "auto";
};
// Declares --model, --adapter, --load-in-4bit, --threads, --precision, --device. `options` outlives the
// parse.
void add_model_options(CLI::App& app, ModelOptions& options);

struct AnswerOptions {
  std::optional<double> temperature, top_p, min_p, repeat_penalty;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
  int64_t max_tokens = 512;
  std::vector<std::string> stop;
  std::optional<bool> think;
};
// Declares --temperature, --top-k, ..., --max-tokens, --stop, --think and --no-think.
void add_answer_options(CLI::App& app, AnswerOptions& options);

// The model's own recommendations, with what the options say in their place.
SamplingParams sampling_of(const AnswerOptions& options, const ModelConfig& config);

// A loaded model with the device and the threads that compute for it.
struct OpenModel {
  std::unique_ptr<ComputeDevice> device;
  std::unique_ptr<ThreadPool> threads;
  LoadedModel loaded;
};
OpenModel open_model(const ModelOptions& options);

// An engine for one user. context: tokens of prompt and answer; cut to what the model has.
std::unique_ptr<Engine> single_engine(const OpenModel& model, Precision precision, int64_t context);

}  // namespace onggi

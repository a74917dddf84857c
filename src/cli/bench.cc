// `onggi bench`: training, prefill, decode, quantisation and merge at the shape of any Qwen3 model, with
// random weights. Each figure comes with the operations or bytes that it took and its ratio to what this
// machine reaches in the same run.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "base/clock.h"
#include "base/process.h"
#include "base/random.h"
#include "base/text.h"
#include "cli/bench_checkpoint.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "merge/merge.h"
#include "model/compute_device.h"
#include "model/inference.h"
#include "model/training.h"
#include "quantize/convert.h"
#include "train/memory_plan.h"

namespace onggi {
namespace {

struct Options {
  std::string shape = "qwen3-0.6b";
  std::string weights;  // dtype of the body
  std::string folder = "outputs/bench";
  std::string type = "q4_k_m";
  int64_t tokens = 0;  // of a sample, a prompt, or a context
  int64_t users = 1;
  int64_t repeats = 3;
  int threads = 0;
  int64_t micro_batch = 1;   // samples packed into a pass of training
  int64_t accumulation = 4;  // passes of a step
  double dropout = 0.1;
  std::string device = "auto";
  bool adapter = false;       // likewise: decode and prefill with a LoRA adapter
  bool recompute = false;     // likewise: training recomputes blocks
  std::string memory_budget;  // of training: chooses passes and recompute as `onggi train` does
  bool json = false;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Figure {
  std::string name;
  double value = 0;
  std::string unit;
};

// What the machine can do, measured in the same run: the bound that figures are held against.
double product_rate(const Compute& compute) {
  // A large product in bf16 where there is such arithmetic, on random values: operations per second.
  Stream& stream = compute.stream();
  const bool on_gpu = stream.device().kind == DeviceKind::kCuda;
  const int64_t size = on_gpu ? 8192 : 2048, tokens = on_gpu ? 8192 : 512;
  Random random(1, 99);
  std::vector<uint16_t> values(static_cast<size_t>(size * size));
  for (uint16_t& value : values) value = f32_to_bf16(2 * random.uniform() - 1);
  const Buffer weight = stream.allocate(values.size() * sizeof(uint16_t));
  stream.copy_in(weight.data(), values.data(), weight.bytes());
  const DType dtype = compute.activation_dtype();
  const auto bytes = static_cast<size_t>(dtype_bytes(dtype, tokens * size));
  const Buffer x = stream.allocate(bytes), out = stream.allocate(bytes);
  if (dtype == DType::kBF16) {
    stream.copy_in(x.data(), values.data(), bytes);
  } else {
    std::vector<float> wide(static_cast<size_t>(tokens * size));
    for (float& value : wide) value = 2 * random.uniform() - 1;
    stream.copy_in(x.data(), wide.data(), bytes);
  }
  LinearArgs args{.x = {x.data(), dtype},
                  .weight = {DType::kBF16, size, size, weight.data()},
                  .tokens = tokens,
                  .out = {out.data(), dtype}};
  std::vector<double> rates;
  for (int i = 0; i < 7; ++i) {
    const Stopwatch watch;
    constexpr int kRuns = 3;
    for (int run = 0; run < kRuns; ++run)
      run_op(compute.ops.linear, "linear", compute.ops, DType::kBF16, compute.context, args);
    stream.synchronize();
    rates.push_back(2.0 * kRuns * static_cast<double>(tokens * size * size) / watch.seconds());
  }
  return *std::max_element(rates.begin(), rates.end());
}

// Copies within a GPU's memory: bytes read and written per second.
double copy_rate(Stream& stream) {
  constexpr size_t kBytes = size_t{2} << 30;
  const Buffer from = stream.allocate(kBytes), to = stream.allocate(kBytes);
  stream.fill_zero(from.data(), kBytes);
  std::vector<double> rates;
  for (int i = 0; i < 7; ++i) {
    stream.synchronize();
    const Stopwatch watch;
    stream.copy(to.data(), from.data(), kBytes);
    stream.synchronize();
    rates.push_back(2.0 * kBytes / watch.seconds());
  }
  return *std::max_element(rates.begin(), rates.end());
}

// Reading memory with all threads: bytes per second.
double read_rate(ThreadPool& threads) {
  std::vector<uint64_t> memory((size_t{256} << 20) / sizeof(uint64_t), 1);
  std::vector<uint64_t> sums(static_cast<size_t>(threads.size()) * 8);
  std::vector<double> rates;
  for (int i = 0; i < 5; ++i) {
    const Stopwatch watch;
    threads.parallel_for(static_cast<int64_t>(memory.size()), 8, [&](int64_t begin, int64_t end, int thread) {
      uint64_t lanes[8] = {};
      for (int64_t at = begin; at + 8 <= end; at += 8)
        for (int lane = 0; lane < 8; ++lane) lanes[lane] ^= memory[static_cast<size_t>(at + lane)];
      sums[static_cast<size_t>(thread) * 8] += std::accumulate(lanes, lanes + 8, uint64_t{0});
    });
    rates.push_back(static_cast<double>(memory.size() * sizeof(uint64_t)) / watch.seconds());
  }
  return *std::max_element(rates.begin(), rates.end());
}

// Weights that each token is multiplied with, without the embedding's look-up.
double body_weights(const ModelConfig& c) {
  return static_cast<double>(c.num_layers) *
         static_cast<double>(c.hidden_size * (2 * c.q_size() + 2 * c.kv_size() + 3 * c.intermediate_size));
}
double head_weights(const ModelConfig& c) { return static_cast<double>(c.vocab_size * c.hidden_size); }

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        device_(open_device(options.device, describe_machine())),
        threads_(options.threads),
        session_(device_, threads_, Precision::kFast),
        compute_(session_.compute()),
        config_(published_config(options.shape)) {}

  void train();
  void prefill();
  void decode();
  void quantize();
  void merge();
  void print(const std::string& title) const;

 private:
  TrainingPlan training_plan(const Model& model, int64_t length);
  void run_pass(const Model& model, KvCache& cache, std::span<const SequenceInput> inputs,
                InferenceBuffers& buffers);
  void add(const std::string& name, double value, const std::string& unit) {
    figures_.push_back({name, value, unit});
  }
  RandomBody body(const char* fallback) const;
  std::vector<int32_t> random_tokens(int64_t count, uint64_t stream) const;

  const Options& options_;
  ComputeDevice device_;
  ThreadPool threads_;
  ComputeSession session_;
  const Compute& compute_;
  ModelConfig config_;
  std::vector<Figure> figures_;
};

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

// A step of training as the trainer runs it: passes, the gradient's norm, the optimiser.
class TrainingStep {
 public:
  TrainingStep(Model& model, const Compute& compute, const Options& options, int64_t length,
               const TrainingPlan& plan)
      : model_(model),
        compute_(compute),
        options_(options),
        length_(length),
        samples_(plan.tokens_per_pass / length),
        passes_(options.micro_batch * options.accumulation / samples_),
        bytes_(model.adapter->values.size() * sizeof(float)),
        gradient_(compute.stream().allocate(bytes_)),
        first_(compute.stream().allocate(bytes_)),
        second_(compute.stream().allocate(bytes_)),
        squares_(compute.stream().allocate(sizeof(double))),
        memory_(model, compute, plan.tokens_per_pass, plan.policy) {
    for (const Buffer* moment : {&first_, &second_}) compute.stream().fill_zero(moment->data(), bytes_);
    for (int64_t sample = 0; sample <= samples_; ++sample)
      starts_.push_back(static_cast<int32_t>(sample * length));
  }

  // Returns the mean loss.
  double run(int64_t step, const std::vector<int32_t>& tokens, const std::vector<int32_t>& labels) {
    Stream& stream = compute_.stream();
    stream.fill_zero(gradient_.data(), bytes_);
    const auto scale = 1.0f / static_cast<float>(passes_ * samples_ * (length_ - 1));
    for (int64_t pass = 0; pass < passes_; ++pass) {
      const DropoutState dropout{options_.dropout, 1, static_cast<uint64_t>(step * passes_ + pass)};
      forward_backward(model_, compute_, {tokens, labels, starts_}, dropout, scale, memory_,
                       gradient_.as<float>());
    }
    const auto elements = static_cast<int64_t>(model_.adapter->values.size());
    compute_.ops.sum_of_squares(
        compute_.context, {.x = gradient_.as<float>(), .elements = elements, .sum = squares_.as<double>()});
    const double loss = memory_.take_loss_sum() * scale;
    compute_.ops.adamw(compute_.context, {.weights = model_.adapter->device_values(),
                                          .gradient = gradient_.as<float>(),
                                          .first_moment = first_.as<float>(),
                                          .second_moment = second_.as<float>(),
                                          .elements = elements,
                                          .sum_of_squares = squares_.as<double>(),
                                          .max_norm = 1.0,
                                          .learning_rate = 2e-4f,
                                          .beta1 = 0.9f,
                                          .beta2 = 0.999f,
                                          .epsilon = 1e-8f,
                                          .weight_decay = 0,
                                          .step = step + 1});
    stream.synchronize();
    return loss;
  }

 private:
  Model& model_;
  const Compute& compute_;
  const Options& options_;
  int64_t length_;
  int64_t samples_, passes_;  // of a pass, of a step
  size_t bytes_;
  Buffer gradient_, first_, second_, squares_;
  TrainingMemory memory_;
  std::vector<int32_t> starts_;
};

TrainingPlan Bench::training_plan(const Model& model, int64_t length) {
  Config config;
  config.training.gradient_accumulation_steps = options_.accumulation;
  config.training.per_device_train_batch_size = options_.micro_batch;
  const uint64_t on_device = device_.stream().allocated_bytes();
  TrainingNeeds needs{.model = config_};
  needs.format =
      TrainingFormat::of(compute_.ops, device_.device().kind, compute_.precision, model.adapter->rank());
  needs.weight_bytes = on_device > 0 ? on_device : model.weight_bytes;
  needs.lora_parameters = model.adapter->values.size();
  needs.rank = model.adapter->rank();
  needs.longest_sample = length;
  needs.samples_per_step = options_.accumulation * options_.micro_batch;
  needs.threads = threads_.size();
  if (options_.memory_budget.empty())
    return plan_for(needs, options_.micro_batch * length,
                    options_.recompute ? ActivationPolicy::kRecomputeBlocks : ActivationPolicy::kKeepAll);
  const auto budget = parse_byte_size(options_.memory_budget);
  if (!budget) throw UsageError(text("--memory-budget takes a size such as \"8GiB\""));
  needs.budget_bytes = budget->bytes;
  return plan_training(config, needs);
}

void Bench::train() {
  const int64_t length = options_.tokens > 0 ? options_.tokens : 256;
  const int64_t samples = options_.accumulation * options_.micro_batch;
  const auto model = random_model(config_, body("nf4"), 1, device_.placement());
  model->adapter = std::make_shared<LoraParameters>(config_, lora_target_roles(), 16, 16.0);
  model->adapter->initialise(1);
  const TrainingPlan plan = training_plan(*model, length);
  const int64_t pass_tokens = plan.tokens_per_pass;
  model->adapter->place(device_.stream());
  device_.stream().reset_peak();
  std::vector<double> seconds;
  double loss = 0;
  {
    TrainingStep step(*model, compute_, options_, length, plan);
    const std::vector<int32_t> tokens = random_tokens(pass_tokens, 1);
    // All tokens but the last of each sample carry a label: the dearest case.
    std::vector<int32_t> labels(tokens.begin() + 1, tokens.end());
    labels.push_back(-100);
    for (int64_t end = length; end <= pass_tokens; end += length) labels[static_cast<size_t>(end - 1)] = -100;
    for (int64_t repeat = 0; repeat <= options_.repeats; ++repeat) {  // the first one warms up
      const Stopwatch watch;
      loss = step.run(repeat, tokens, labels);
      if (repeat > 0) seconds.push_back(watch.seconds());
    }
  }
  const double rate = static_cast<double>(samples * length) / median(seconds);
  const uint64_t peak = device_.is_gpu() ? device_.stream().peak_bytes() : peak_memory_bytes();
  // Forward and the input's gradient: two products of two operations a weight each.
  const double operations = 4.0 * (body_weights(config_) + head_weights(config_));
  const double limit = product_rate(compute_);
  add(text("training, {} samples of {} tokens, {} a pass, rank 16", samples, length, pass_tokens / length),
      rate, "tok/s");
  add(text("loss after the last step"), loss, "");
  add(text("operations"), operations / 1e9, "GFLOP/token");
  add(text("rate of operations"), rate * operations / 1e9, "GFLOP/s");
  add(text("this machine's bf16 product in the same run"), limit / 1e9, "GFLOP/s");
  add(text("share of it"), 100 * rate * operations / limit, "%");
  add(text("memory planned"), static_cast<double>(plan.total_bytes) / 1e6, "MB");
  add(text("peak memory"), static_cast<double>(peak) / 1e6, "MB");
}

// With the choice of the most likely token, where the device makes it.
void Bench::run_pass(const Model& model, KvCache& cache, std::span<const SequenceInput> inputs,
                     InferenceBuffers& buffers) {
  if (compute_.ops.top_logits != nullptr) {
    infer_top(model, compute_, cache, inputs, buffers, 20);
  } else {
    infer(model, compute_, cache, inputs, buffers);
  }
}

void Bench::prefill() {
  const int64_t length = options_.tokens > 0 ? options_.tokens : 512;
  const auto model = random_model(config_, body("q4_k_m"), 1, device_.placement());
  if (options_.adapter) {
    model->adapter = std::make_shared<LoraParameters>(config_, lora_target_roles(), 16, 16.0);
    model->adapter->initialise(1);
    model->adapter->place(device_.stream());
  }
  KvCache cache(config_, (length + kKvPageTokens - 1) / kKvPageTokens, DType::kBF16, device_.stream());
  const auto tokens = random_tokens(length, 0);
  InferenceBuffers buffers(device_.stream());
  std::vector<double> seconds;
  for (int64_t repeat = 0; repeat <= options_.repeats; ++repeat) {
    KvSequence sequence(cache);
    sequence.reserve(length);
    const SequenceInput input{&sequence, tokens};
    const Stopwatch watch;
    run_pass(*model, cache, std::span(&input, 1), buffers);
    if (repeat > 0) seconds.push_back(watch.seconds());
  }
  const double rate = static_cast<double>(length) / median(seconds);
  const double operations = 2.0 * body_weights(config_);
  const double limit = product_rate(compute_);
  add(text("prefill of {} tokens", length), rate, "tok/s");
  add(text("operations"), operations / 1e9, "GFLOP/token");
  add(text("this machine's bf16 product in the same run"), limit / 1e9, "GFLOP/s");
  add(text("share of it"), 100 * rate * operations / limit, "%");
}

void Bench::decode() {
  const int64_t past = options_.tokens > 0 ? options_.tokens : 64;
  const int64_t generated = device_.is_gpu() ? 128 : 32;
  const auto model = random_model(config_, body("q4_k_m"), 1, device_.placement());
  if (options_.adapter) {
    model->adapter = std::make_shared<LoraParameters>(config_, lora_target_roles(), 16, 16.0);
    model->adapter->initialise(1);
    model->adapter->place(device_.stream());
  }
  const int64_t pages = (past + generated + kKvPageTokens) / kKvPageTokens + 1;
  KvCache cache(config_, options_.users * pages, DType::kBF16, device_.stream());
  InferenceBuffers buffers(device_.stream());
  std::vector<double> seconds;
  for (int64_t repeat = 0; repeat <= options_.repeats; ++repeat) {
    std::vector<KvSequence> sequences;
    std::vector<std::vector<int32_t>> next;
    for (int64_t user = 0; user < options_.users; ++user) {
      sequences.emplace_back(cache);
      next.push_back(random_tokens(past, static_cast<uint64_t>(user)));
    }
    const auto step = [&] {
      std::vector<SequenceInput> inputs;
      for (size_t user = 0; user < sequences.size(); ++user) {
        sequences[user].reserve(sequences[user].length() + static_cast<int64_t>(next[user].size()));
        inputs.push_back({&sequences[user], next[user]});
      }
      run_pass(*model, cache, inputs, buffers);
    };
    step();
    for (auto& tokens : next) tokens = {7};
    const Stopwatch watch;
    for (int64_t i = 0; i < generated; ++i) step();
    if (repeat > 0) seconds.push_back(watch.seconds());
  }
  const double rate = static_cast<double>(options_.users * generated) / median(seconds);
  const double bytes =
      static_cast<double>(model->weight_bytes);  // the embedding is read once, as the output matrix
  const double limit = device_.is_gpu() ? copy_rate(device_.stream()) : read_rate(threads_);
  add(text("decode, {} users after {} tokens", options_.users, past), rate, "tok/s");
  add(text("weights read a step"), bytes / 1e9, "GB");
  add(text("rate of reading"), rate / static_cast<double>(options_.users) * bytes / 1e9, "GB/s");
  add(text("this machine's memory in the same run"), limit / 1e9, "GB/s");
  add(text("share of it"), 100 * rate / static_cast<double>(options_.users) * bytes / limit, "%");
}

void Bench::quantize() {
  const fs::path folder = bench_checkpoint(config_, options_.folder);
  ConvertOptions convert;
  convert.source = folder;
  convert.output = fs::path(options_.folder) / (options_.type + ".gguf");
  convert.recipe = parse_recipe(options_.type);
  const uint64_t before = resident_memory_bytes();
  reset_peak_memory();
  const ConvertResult result = convert_to_gguf(convert, threads_);
  add(text("quantise to {}", options_.type), result.seconds, "s");
  add(text("weights"), static_cast<double>(result.weights) / 1e6, "M");
  add(text("rate"), static_cast<double>(result.weights) / result.seconds / 1e6, "M/s");
  add(text("relative error"), result.relative_error, "");
  add(text("memory before"), static_cast<double>(before) / 1e6, "MB");
  add(text("peak memory"), static_cast<double>(peak_memory_bytes()) / 1e6, "MB");
}

void Bench::merge() {
  const fs::path folder = bench_checkpoint(config_, options_.folder);
  MergeOptions merge;
  merge.base_folder = folder;
  merge.adapter_folder = bench_adapter(config_, options_.folder);
  merge.output_folder = fs::path(options_.folder) / "merged";
  fs::remove_all(merge.output_folder);
  if (options_.weights == "nf4") merge.base = MergeBase::kNf4Dequantized;
  reset_peak_memory();
  const MergeResult result = merge_adapter(merge, threads_);
  add(text("merge onto {}", merge_base_name(merge.base)), result.seconds, "s");
  add(text("written"), static_cast<double>(result.bytes) / 1e9, "GB");
  add(text("rate"), static_cast<double>(result.bytes) / result.seconds / 1e9, "GB/s");
  add(text("peak memory"), static_cast<double>(peak_memory_bytes()) / 1e6, "MB");
}

void Bench::print(const std::string& title) const {
  const Terminal terminal(stdout);
  if (options_.json) {
    nlohmann::ordered_json json = {{"bench", title}, {"shape", options_.shape}, {"threads", threads_.size()}};
    for (const Figure& figure : figures_)
      json["figures"].push_back({{"name", figure.name}, {"value", figure.value}, {"unit", figure.unit}});
    terminal.write(json.dump() + "\n");
    return;
  }
  Table table({text("{}, {}, {} threads", title, options_.shape, threads_.size()), "", ""},
              {Align::kLeft, Align::kRight, Align::kLeft});
  for (const Figure& figure : figures_)
    table.add({figure.name, fmt::format("{:.4g}", figure.value), figure.unit});
  terminal.write(table.to_string(terminal));
}

}  // namespace

RunCommand setup_bench(CLI::App& app) {
  auto options = std::make_shared<Options>();
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

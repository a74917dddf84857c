// `onggi bench train`: a step of QLoRA training.
#include "base/clock.h"
#include "base/process.h"
#include "base/text.h"
#include "cli/bench.h"
#include "model/training.h"

namespace onggi {
namespace {

constexpr int kRank = 16;  // R

// A step of training as the trainer runs it: passes, the gradient's norm, the optimiser.
class TrainingStep {
 public:
  TrainingStep(Model& model, const Compute& compute, const BenchOptions& options, int64_t length,
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

  struct Result {
    double loss;            // mean
    double queued_seconds;  // until the host had queued the passes
  };
  Result run(int64_t step, const std::vector<int32_t>& tokens, const std::vector<int32_t>& labels) {
    const Stopwatch watch;
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
    const double queued = watch.seconds();
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
    return {loss, queued};
  }

 private:
  Model& model_;
  const Compute& compute_;
  const BenchOptions& options_;
  int64_t length_;
  int64_t samples_, passes_;  // of a pass, of a step
  size_t bytes_;
  Buffer gradient_, first_, second_, squares_;
  TrainingMemory memory_;
  std::vector<int32_t> starts_;
};

}  // namespace

TrainingPlan Bench::training_plan(int64_t length) {
  Config config;
  config.training.gradient_accumulation_steps = options_.accumulation;
  config.training.per_device_train_batch_size = options_.micro_batch;
  TrainingNeeds needs{.model = config_};
  needs.format = ActivationFormat::of(compute_.ops, device_.device().kind, compute_.precision, kRank);
  needs.weights = measure_random_weights(config_, body("nf4"), device_.device().kind);
  needs.lora_parameters = lora_parameter_count(config_, lora_target_roles(), kRank);
  needs.rank = kRank;
  needs.longest_sample = length;
  needs.samples_per_step = options_.accumulation * options_.micro_batch;
  needs.threads = threads_.size();
  if (options_.memory_budget.empty())
    return plan_for(needs, {.tokens = options_.micro_batch * length,
                            .policy = options_.recompute ? ActivationPolicy::kRecomputeBlocks
                                                         : ActivationPolicy::kKeepAll});
  const auto budget = parse_byte_size(options_.memory_budget);
  if (!budget) throw UsageError(text("--memory-budget takes a size such as \"8GiB\""));
  needs.budget_bytes = budget->bytes;
  return plan_training(config, needs);
}

void Bench::train() {
  const int64_t length = options_.tokens > 0 ? options_.tokens : 256;
  const int64_t samples = options_.accumulation * options_.micro_batch;
  const TrainingPlan plan = training_plan(length);
  Placement placement = device_.placement();
  placement.offloaded_layers = plan.offloaded_layers;
  const auto model = random_model(config_, body("nf4"), 1, placement);
  model->adapter = std::make_shared<LoraParameters>(config_, lora_target_roles(), kRank, double{kRank});
  model->adapter->initialise(1);
  const int64_t pass_tokens = plan.tokens_per_pass;
  model->adapter->place(device_.stream());
  std::vector<double> seconds, queued_seconds;
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
      const TrainingStep::Result result = step.run(repeat, tokens, labels);
      loss = result.loss;
      if (repeat == 0) continue;
      seconds.push_back(watch.seconds());
      queued_seconds.push_back(result.queued_seconds);
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
  // Passes of one shape are recorded: what is left is the loss, and the passes before.
  if (device_.is_gpu())
    add(text("share of a step in which the host queues it"), 100 * median(queued_seconds) / median(seconds),
        "%");
  add(text("memory planned"), static_cast<double>(plan.total_bytes) / 1e6, "MB");
  add(text("peak memory"), static_cast<double>(peak) / 1e6, "MB");
  add(text("layers offloaded"), static_cast<double>(plan.offloaded_layers), "");
}

}  // namespace onggi

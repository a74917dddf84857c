#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/clock.h"
#include "base/error.h"
#include "base/process.h"
#include "base/text.h"
#include "device/device_twin.h"
#include "train/schedule.h"

namespace onggi {
namespace {

nlohmann::ordered_json to_json(const StepRecord& record) {
  nlohmann::ordered_json json = {{"step", record.step},
                                 {"loss", record.loss},
                                 {"grad_norm", record.gradient_norm},
                                 {"learning_rate", record.learning_rate},
                                 {"label_tokens", record.label_tokens},
                                 {"tokens", record.tokens},
                                 {"seconds", record.seconds},
                                 {"epoch", record.epoch}};
  if (record.evaluation_loss) json["eval_loss"] = *record.evaluation_loss;
  return json;
}

// training_log.jsonl, cut back to the step that a run resumes from.
class TrainingLog {
 public:
  TrainingLog(const fs::path& path, int64_t keep_steps) : path_(path) {
    std::string kept;
    if (keep_steps > 0 && fs::exists(path)) {
      std::istringstream in(read_file(path));
      std::string line;
      while (std::getline(in, line)) {
        const auto json = nlohmann::json::parse(line, nullptr, false);
        // A line cut by a crash is not JSON; it is past the checkpoint anyway.
        if (json.is_object() && json.value("step", int64_t{0}) >= 1 &&
            json.value("step", int64_t{0}) <= keep_steps)
          kept += line + "\n";
      }
    }
    write_file(path, kept);
    out_.open(path, std::ios::app);
  }
  void add(const StepRecord& record) {
    out_ << to_json(record).dump() << '\n' << std::flush;
    if (!out_) throw MachineError(text("cannot write {}: is the disk full?", path_.string()));
  }

 private:
  fs::path path_;
  std::ofstream out_;
};

// The settings that determine the bits of a run, besides data and base model.
std::string run_fingerprint(const Config& config, const TrainData& data, int threads) {
  const TrainingConfig& t = config.training;
  nlohmann::ordered_json json = {{"data", data.fingerprint},
                                 {"samples", data.train.size()},
                                 {"validation", data.validation.size()},
                                 {"max_seq_length", config.max_seq_length},
                                 {"seed", config.seed},
                                 {"threads", threads},
                                 {"max_steps", t.max_steps},
                                 {"batch", t.per_device_train_batch_size},
                                 {"accumulation", t.gradient_accumulation_steps},
                                 {"learning_rate", t.learning_rate},
                                 {"scheduler", name_of(t.lr_scheduler_type)},
                                 {"warmup", t.warmup_steps},
                                 {"decay", t.weight_decay},
                                 {"beta1", t.adam_beta1},
                                 {"beta2", t.adam_beta2},
                                 {"epsilon", t.adam_epsilon},
                                 {"clip", t.max_grad_norm},
                                 {"packing", t.packing},
                                 {"r", config.lora.r},
                                 {"alpha", config.lora.lora_alpha},
                                 {"dropout", config.lora.lora_dropout},
                                 {"targets", config.lora.target_modules},
                                 {"four_bit", config.quantization.load_in_4bit},
                                 {"compute", name_of(config.quantization.bnb_4bit_compute_dtype)}};
  return sha256_hex(json.dump());
}

std::vector<TensorRole> target_roles(const Config& config) {
  std::vector<TensorRole> roles;
  for (const std::string& name : config.lora.target_modules) {
    const auto role = lora_target_role(name);
    if (!role) throw UsageError(text("lora.target_modules: '{}' is no projection of this model", name));
    roles.push_back(*role);
  }
  return roles;
}

int64_t longest(std::span<const Sample> samples) {
  size_t length = 0;
  for (const Sample& sample : samples) length = std::max(length, sample.ids.size());
  return static_cast<int64_t>(length);
}

TrainingBatch view_of(const PackedBatch& batch) { return {batch.tokens, batch.labels, batch.segment_starts}; }

class Trainer {
 public:
  Trainer(const Config& config, Model& model, const TrainData& data, const Compute& compute,
          const fs::path& folder, const TrainingPlan& plan)
      : config_(config),
        model_(model),
        data_(data),
        compute_(compute),
        folder_(folder),
        info_{config.lora.lora_dropout, config.model_name},
        plan_(plan) {
    ONGGI_CHECK(!data.train.empty());
    model_.adapter = std::make_shared<LoraParameters>(model.config, target_roles(config), config.lora.r,
                                                      config.lora.lora_alpha);
    model_.adapter->initialise(config.seed);
    restore_or_start();
  }

  TrainResult run(const std::function<void(const StepRecord&)>& on_step);

 private:
  LoraParameters& parameters() { return *model_.adapter; }
  fs::path checkpoint_path(int64_t step) const { return folder_ / ("checkpoint-" + std::to_string(step)); }

  void restore_or_start();
  StepRecord step(EpochSampler& sampler);
  std::vector<PackedBatch> passes_of(const std::vector<uint32_t>& indices) const;
  void update(StepRecord& record);
  void check_finite(double value, const char* what, const std::vector<uint32_t>& indices) const;
  double evaluate();
  // Notes an evaluation; true when training should stop.
  bool judge(double evaluation_loss);
  void save(int64_t step);
  void drop_old_checkpoints();

  const Config& config_;
  Model& model_;
  const TrainData& data_;
  const Compute& compute_;
  fs::path folder_;
  AdapterInfo info_;
  const TrainingPlan& plan_;
  TrainerState state_;
  DeviceTwin first_moment_, second_moment_;  // of the vectors in state_
  Buffer gradient_;                          // f32, the layout of the adapter's values
  Buffer squared_norm_;                      // f64
  std::unique_ptr<TrainingMemory> memory_;
  int64_t resumed_from_ = 0;
};

void Trainer::restore_or_start() {
  const std::string fingerprint = run_fingerprint(config_, data_, compute_.context.threads.size());
  if (const auto checkpoint = find_checkpoint(folder_, fingerprint)) {
    state_ = load_checkpoint(*checkpoint, model_.config, parameters());
    resumed_from_ = state_.step;
  } else {
    // Checkpoints of another run would be mistaken for this one's by whoever looks at the folder.
    for (const auto& [step, path] : list_checkpoints(folder_)) fs::remove_all(path);
    state_.first_moment.assign(parameters().values.size(), 0.0f);
    state_.second_moment.assign(parameters().values.size(), 0.0f);
  }
  state_.fingerprint = fingerprint;
  Stream& stream = compute_.stream();
  parameters().place(stream);
  first_moment_.place(stream, state_.first_moment);
  second_moment_.place(stream, state_.second_moment);
  gradient_ = stream.allocate(parameters().values.size() * sizeof(float));
  squared_norm_ = stream.allocate(sizeof(double));
  memory_ = std::make_unique<TrainingMemory>(model_, compute_, plan_.tokens_per_pass, plan_.policy);
}

// The passes of one optimiser step: as many samples side by side as the plan allows, or micro-batches one by
// one.
std::vector<PackedBatch> Trainer::passes_of(const std::vector<uint32_t>& indices) const {
  std::vector<PackedBatch> passes;
  if (config_.training.packing) {
    for (const auto& group : plan_packs(data_.train, indices, static_cast<size_t>(plan_.tokens_per_pass)))
      passes.push_back(pack(data_.train, group));
    return passes;
  }
  const auto batch = static_cast<size_t>(config_.training.per_device_train_batch_size);
  for (size_t begin = 0; begin < indices.size(); begin += batch)
    passes.push_back(
        pack(data_.train, std::span(indices).subspan(begin, std::min(batch, indices.size() - begin))));
  return passes;
}

void Trainer::check_finite(double value, const char* what, const std::vector<uint32_t>& indices) const {
  if (std::isfinite(value)) return;
  std::string lines;
  for (uint32_t index : indices)
    lines += (lines.empty() ? "" : ", ") + std::to_string(data_.train[index].line);
  throw WorkError(text(
      "the {} of step {} is not finite; its samples are lines {} of the data set: lower learning_rate or "
      "look at these samples; the last checkpoint is kept in {}",
      translate(what), state_.step + 1, lines, folder_.string()));
}

StepRecord Trainer::step(EpochSampler& sampler) {
  const Stopwatch watch;
  const TrainingConfig& t = config_.training;
  const std::vector<uint32_t> indices =
      sampler.next(static_cast<size_t>(t.per_device_train_batch_size * t.gradient_accumulation_steps));
  const std::vector<PackedBatch> passes = passes_of(indices);
  StepRecord record;
  record.step = state_.step + 1;
  for (const PackedBatch& pass : passes) record.label_tokens += static_cast<int64_t>(pass.label_count());
  Stream& stream = compute_.stream();
  stream.fill_zero(gradient_.data(), gradient_.bytes());
  const float loss_scale = 1.0f / static_cast<float>(std::max<int64_t>(record.label_tokens, 1));
  for (size_t i = 0; i < passes.size(); ++i) {
    const DropoutState dropout{config_.lora.lora_dropout, config_.seed,
                               static_cast<uint64_t>(state_.step) * indices.size() + i};
    forward_backward(model_, compute_, view_of(passes[i]), dropout, loss_scale, *memory_,
                     gradient_.as<float>());
    record.tokens += static_cast<int64_t>(passes[i].tokens.size());
  }
  compute_.ops.sum_of_squares(compute_.context, {.x = gradient_.as<float>(),
                                                 .elements = static_cast<int64_t>(parameters().values.size()),
                                                 .sum = squared_norm_.as<double>()});
  // Here the device is waited for, once a step.
  record.loss = memory_->take_loss_sum() / static_cast<double>(std::max<int64_t>(record.label_tokens, 1));
  check_finite(record.loss, "loss", indices);
  double squares = 0;
  stream.copy_out(&squares, squared_norm_.data(), sizeof squares);
  record.gradient_norm = std::sqrt(squares);
  check_finite(record.gradient_norm, "gradient", indices);
  update(record);
  state_.step += 1;
  state_.cursor = sampler.cursor();
  state_.last_loss = record.loss;
  if (state_.step == 1) state_.first_loss = record.loss;
  record.epoch = static_cast<double>(state_.cursor.epoch) +
                 static_cast<double>(state_.cursor.position) / static_cast<double>(data_.train.size());
  record.seconds = watch.seconds();
  return record;
}

void Trainer::update(StepRecord& record) {
  const TrainingConfig& t = config_.training;
  record.learning_rate = learning_rate_at(t, state_.step);
  compute_.ops.adamw(compute_.context,
                     {.weights = parameters().device_values(),
                      .gradient = gradient_.as<float>(),
                      .first_moment = first_moment_.data(state_.first_moment),
                      .second_moment = second_moment_.data(state_.second_moment),
                      .elements = static_cast<int64_t>(parameters().values.size()),
                      .sum_of_squares = t.max_grad_norm > 0 ? squared_norm_.as<double>() : nullptr,
                      .max_norm = t.max_grad_norm,
                      .learning_rate = static_cast<float>(record.learning_rate),
                      .beta1 = static_cast<float>(t.adam_beta1),
                      .beta2 = static_cast<float>(t.adam_beta2),
                      .epsilon = static_cast<float>(t.adam_epsilon),
                      .weight_decay = static_cast<float>(t.weight_decay),
                      .step = state_.step + 1});
}

double Trainer::evaluate() {
  std::vector<uint32_t> order(data_.validation.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
  double loss_sum = 0;
  int64_t label_tokens = 0;
  for (const auto& group : plan_packs(data_.validation, order, static_cast<size_t>(plan_.tokens_per_pass))) {
    const PackedBatch batch = pack(data_.validation, group);
    loss_sum += loss_of_batch(model_, compute_, view_of(batch), *memory_);
    label_tokens += static_cast<int64_t>(batch.label_count());
  }
  return loss_sum / static_cast<double>(std::max<int64_t>(label_tokens, 1));
}

bool Trainer::judge(double evaluation_loss) {
  if (state_.best_step == 0 || evaluation_loss < state_.best_evaluation_loss) {
    state_.best_evaluation_loss = evaluation_loss;
    state_.best_step = state_.step;
    state_.evaluations_without_gain = 0;
    return false;
  }
  state_.evaluations_without_gain += 1;
  const int64_t patience = config_.training.early_stopping_patience;
  return patience > 0 && state_.evaluations_without_gain >= patience;
}

void Trainer::save(int64_t step) {
  parameters().download();
  first_moment_.download(state_.first_moment);
  second_moment_.download(state_.second_moment);
  save_checkpoint(checkpoint_path(step), parameters(), model_.config, info_, state_);
  drop_old_checkpoints();
}

void Trainer::drop_old_checkpoints() {
  const int64_t limit = config_.training.save_total_limit;
  if (limit <= 0) return;
  auto checkpoints = list_checkpoints(folder_);
  for (size_t i = 0; i + static_cast<size_t>(limit) < checkpoints.size(); ++i)
    if (checkpoints[i].first != state_.best_step) fs::remove_all(checkpoints[i].second);
}

TrainResult Trainer::run(const std::function<void(const StepRecord&)>& on_step) {
  const TrainingConfig& t = config_.training;
  TrainingLog log(folder_ / "training_log.jsonl", state_.step);
  EpochSampler sampler(data_.train.size(), config_.seed, SampleOrder::kShuffled, state_.cursor);
  TrainResult result;
  result.resumed_from = resumed_from_;
  int64_t tokens = 0;
  const bool evaluates = !data_.validation.empty();
  const int64_t every = t.eval_steps > 0 ? t.eval_steps : t.save_steps;
  while (state_.step < t.max_steps && !result.stopped_early) {
    StepRecord record = step(sampler);
    tokens += record.tokens;
    result.seconds += record.seconds;
    const bool last = state_.step == t.max_steps;
    if (evaluates && ((every > 0 && state_.step % every == 0) || last)) {
      record.evaluation_loss = evaluate();
      result.stopped_early = judge(*record.evaluation_loss) && !last;
    }
    if (t.logging_steps <= 1 || state_.step % t.logging_steps == 0 || last || record.evaluation_loss)
      log.add(record);
    on_step(record);
    // A best model must be on disk to be loaded at the end.
    const bool is_best = t.load_best_model_at_end && state_.best_step == state_.step;
    if ((t.save_steps > 0 && state_.step % t.save_steps == 0) || last || is_best || result.stopped_early)
      save(state_.step);
    if (!last && !result.stopped_early && stop_requested()) {
      save(state_.step);
      throw Interrupted(text("stopped after step {} of {}; run the same command again to go on from {}",
                             state_.step, t.max_steps, checkpoint_path(state_.step).string()));
    }
  }
  result.steps = state_.step;
  result.first_loss = state_.first_loss;
  result.final_loss = state_.last_loss;
  result.best_step = state_.best_step;
  result.best_evaluation_loss = state_.best_evaluation_loss;
  result.tokens_per_second = result.seconds > 0 ? static_cast<double>(tokens) / result.seconds : 0;
  if (t.load_best_model_at_end && state_.best_step > 0 && state_.best_step != state_.step)
    load_checkpoint(checkpoint_path(state_.best_step), model_.config, parameters());
  parameters().upload();
  save_adapter(parameters(), model_.config, info_, folder_.string());
  return result;
}

}  // namespace

TrainingPlan plan_run(const Config& config, const ModelConfig& model, const WeightMemory& weights,
                      const TrainData& data, const Compute& compute, uint64_t budget_bytes) {
  const int64_t rank = config.lora.r;
  return plan_training(config, {.model = model,
                                .format = ActivationFormat::of(compute.ops, compute.stream().device().kind,
                                                               compute.precision, rank),
                                .weights = weights,
                                .lora_parameters = lora_parameter_count(model, target_roles(config), rank),
                                .rank = rank,
                                .longest_sample = std::max(longest(data.train), longest(data.validation)),
                                .samples_per_step = config.training.per_device_train_batch_size *
                                                    config.training.gradient_accumulation_steps,
                                .budget_bytes = budget_bytes,
                                .threads = compute.context.threads.size()});
}

TrainResult train(const Config& config, Model& model, const TrainData& data, const Compute& compute,
                  const fs::path& folder, const TrainingPlan& plan,
                  const std::function<void(const StepRecord&)>& on_step) {
  fs::create_directories(folder);
  return Trainer(config, model, data, compute, folder, plan).run(on_step);
}

}  // namespace onggi

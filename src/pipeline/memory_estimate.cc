#include "pipeline/memory_estimate.h"

#include <algorithm>
#include <limits>

#include "blocks/nf4.h"
#include "model/inference.h"
#include "model/tensor_names.h"
#include "quantize/recipes.h"

namespace onggi {

namespace {

// Of merge and convert, which stream: the program, the tokenizer, and buffers of a few megabytes for blocks
// of rows, whatever the model.
constexpr uint64_t kStreamingProgram = 200'000'000;
// The tokenizer, buffers of a pass, and the program itself, beside a model that computes.
constexpr uint64_t kProgram = 300'000'000;
// The seed's service: a context of 4096 tokens, five users at once.
constexpr int64_t kServedContext = 4096;
constexpr int64_t kServedUsers = 5;
constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

bool is_projection(TensorRole role) {
  const auto& roles = lora_target_roles();
  return std::find(roles.begin(), roles.end(), role) != roles.end();
}

uint64_t elements_of(const ModelTensor& tensor) { return static_cast<uint64_t>(element_count(tensor.shape)); }

uint64_t nf4_bytes(uint64_t elements) {
  const uint64_t blocks = elements / kNf4BlockElements;
  return elements / 2 + blocks + blocks / kNf4NestedBlocks * sizeof(float);
}

uint64_t kv_bytes(const ModelConfig& model, int64_t tokens) {
  const auto pages = static_cast<uint64_t>((tokens + kKvPageTokens - 1) / kKvPageTokens);
  return pages * KvCache::page_bytes(model, DType::kBF16);
}

// What merge and convert hold of the tensor that is streaming by, at the largest one: two rows per thread;
// of a projection also the adapter's pair in fp32, sums per row, and its NF4 form where merging goes through
// that.
enum class ThroughNf4 { kNo, kYes };
uint64_t streaming_peak(const EstimateInputs& in, ThroughNf4 through) {
  constexpr uint64_t kRowSums = 32;
  uint64_t largest = 0;
  for (const ModelTensor& tensor : model_tensors(in.model)) {
    const auto rows = static_cast<uint64_t>(tensor.shape.front());
    const auto columns = elements_of(tensor) / rows;
    uint64_t bytes = 2 * columns * sizeof(float) * static_cast<uint64_t>(in.threads);
    if (is_projection(tensor.role)) {
      bytes += rows * kRowSums + static_cast<uint64_t>(in.config.lora.r) * (rows + columns) * sizeof(float);
      if (through == ThroughNf4::kYes) bytes += nf4_bytes(elements_of(tensor));
    }
    largest = std::max(largest, bytes);
  }
  return kStreamingProgram + largest;
}

TrainingNeeds training_needs(const EstimateInputs& in, const ModelSize& size) {
  TrainingNeeds needs{in.model};
  needs.format = in.format;
  needs.weights = measure_weights(in.model, in.format.device, [&](const ModelTensor& tensor) {
    return in.config.quantization.load_in_4bit && is_projection(tensor.role) ? DType::kNF4 : DType::kBF16;
  });
  needs.lora_parameters = size.lora_parameters;
  needs.rank = in.config.lora.r;
  needs.longest_sample = in.config.cutoff_len;
  needs.samples_per_step =
      in.config.training.per_device_train_batch_size * in.config.training.gradient_accumulation_steps;
  needs.budget_bytes = kUnlimited;
  needs.threads = in.threads;
  return needs;
}

StageNeed train_need(const EstimateInputs& in, const ModelSize& size) {
  const TrainingNeeds needs = training_needs(in, size);
  StageNeed need{"train"};
  need.memory_full = kProgram + plan_training(in.config, needs).total_bytes;
  need.memory_minimum = std::min(need.memory_full, kProgram + smallest_plan(in.config, needs).total_bytes);
  // A checkpoint holds the adapter and two moments, in fp32; the folder itself holds the adapter once more.
  const auto checkpoints = static_cast<uint64_t>(
      (in.config.training.max_steps + in.config.training.save_steps - 1) / in.config.training.save_steps);
  const auto limit = static_cast<uint64_t>(in.config.training.save_total_limit);
  const uint64_t kept = limit == 0 ? checkpoints : std::min(limit, checkpoints);
  need.disk = size.lora_parameters * sizeof(float) * (3 * kept + 1);
  return need;
}

}  // namespace

ModelSize measure_model(const ModelConfig& model, const Config& config) {
  ModelSize size;
  std::vector<TensorRole> targets;
  for (const std::string& name : config.lora.target_modules) {
    if (const auto role = lora_target_role(name)) targets.push_back(*role);
  }
  for (const ModelTensor& tensor : model_tensors(model)) {
    const uint64_t elements = elements_of(tensor);
    size.parameters += elements;
    const bool in_4bit = config.quantization.load_in_4bit && is_projection(tensor.role);
    size.bytes_training += in_4bit ? nf4_bytes(elements) : 2 * elements;
  }
  size.bytes_16bit = 2 * size.parameters;
  size.lora_parameters = lora_parameter_count(model, targets, config.lora.r);
  return size;
}

std::optional<TrainingPlan> plan_training_within(const EstimateInputs& in, uint64_t memory) {
  TrainingNeeds needs = training_needs(in, measure_model(in.model, in.config));
  needs.budget_bytes = memory;
  if (smallest_plan(in.config, needs).total_bytes > memory) return std::nullopt;
  return plan_training(in.config, needs);
}

std::vector<StageNeed> estimate_stages(const EstimateInputs& in) {
  const ModelSize size = measure_model(in.model, in.config);
  const uint64_t adapter = size.lora_parameters * sizeof(float);
  const uint64_t answer = kv_bytes(in.model, in.config.cutoff_len + in.config.validation.max_new_tokens);

  StageNeed setup{"setup"};
  // The smoke test reads the 16-bit model, mapped.
  setup.memory_minimum = kProgram + kv_bytes(in.model, kKvPageTokens * 8);
  setup.memory_full = setup.memory_minimum + size.bytes_16bit;
  setup.disk = in.is_local ? 0 : size.bytes_16bit;

  StageNeed validate{"validate"};
  validate.memory_minimum = validate.memory_full = kProgram + size.bytes_training + adapter + answer;

  // The merged model is then measured, mapped; with base = "auto" both forms are on the disk for a while.
  StageNeed merge{"merge"};
  const bool nf4 =
      in.config.quantization.load_in_4bit && in.config.merge.base != MergeConfig::Base::kOriginal;
  merge.memory_minimum = streaming_peak(in, nf4 ? ThroughNf4::kYes : ThroughNf4::kNo);
  merge.memory_full = merge.memory_minimum + size.bytes_16bit + answer;
  merge.disk = size.bytes_16bit * (in.config.merge.base == MergeConfig::Base::kAuto ? 2 : 1);

  StageNeed convert{"convert"};
  uint64_t largest_file = 0, served = 0;
  for (const std::string& type : in.config.gguf.types) {
    const uint64_t bytes = gguf_tensor_bytes(in.model, parse_recipe(type));
    if (served == 0) served = bytes;
    largest_file = std::max(largest_file, bytes);
    convert.disk += bytes;
  }
  if (in.config.gguf.adapter) convert.disk += adapter;
  convert.memory_minimum = streaming_peak(in, ThroughNf4::kNo);
  convert.memory_full = convert.memory_minimum + largest_file + answer;

  StageNeed deploy{"deploy"};
  deploy.memory_minimum =
      kProgram + served + kv_bytes(in.model, in.config.server.context_length.value_or(kServedContext));
  deploy.memory_full = kProgram + served +
                       kv_bytes(in.model, in.config.server.context_length.value_or(kServedContext) *
                                              in.config.server.max_batch.value_or(kServedUsers));
  return {setup, train_need(in, size), validate, merge, convert, deploy};
}

}  // namespace onggi

#include "model/weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "blocks/nf4.h"
#include "model/streamed_layers.h"

namespace onggi {
namespace {

constexpr uint64_t kAlignment = 256;  // of what has memory of its own on a device

uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

size_t norm_bytes(size_t elements) { return aligned(elements * sizeof(float)); }

WeightView view_of(const Nf4Storage& weight) {
  return {DType::kNF4,
          weight.rows,
          weight.columns,
          weight.packed.data(),
          weight.absmax_q8.data(),
          weight.nested_absmax.data(),
          weight.offset};
}

// Of the arrays of a weight: the values, and NF4's scales.
std::vector<uint64_t> array_bytes(DType dtype, int64_t elements) {
  std::vector<uint64_t> bytes{static_cast<uint64_t>(dtype_bytes(dtype, elements))};
  if (dtype == DType::kNF4) {
    const auto blocks = static_cast<uint64_t>(elements / kNf4BlockElements);
    bytes.push_back(blocks);
    bytes.push_back((blocks + kNf4NestedBlocks - 1) / kNf4NestedBlocks * sizeof(float));
  }
  return bytes;
}

uint64_t weight_bytes(const WeightView& weight) {
  uint64_t sum = 0;
  for (const uint64_t bytes : array_bytes(weight.dtype, weight.rows * weight.columns)) sum += bytes;
  return sum;
}

}  // namespace

bool is_norm(TensorRole role) {
  return role == TensorRole::kAttentionNorm || role == TensorRole::kFfnNorm || role == TensorRole::kQNorm ||
         role == TensorRole::kKNorm || role == TensorRole::kFinalNorm;
}

bool is_projection(TensorRole role) {
  return role >= TensorRole::kQ && role <= TensorRole::kDown && !is_norm(role);
}

Norms::Norms(ModelStorage& storage, const Placement& placement, const std::vector<ModelTensor>& tensors)
    : storage_(storage), placement_(placement) {
  if (placement.ops.place_weight == nullptr) return;
  size_t bytes = 0;
  for (const ModelTensor& tensor : tensors)
    if (is_norm(tensor.role)) bytes += norm_bytes(static_cast<size_t>(element_count(tensor.shape)));
  next_ = storage.device_buffers.emplace_back(placement.stream.allocate(bytes)).as<std::byte>();
}

const float* Norms::own(std::vector<float> weight) {
  const std::vector<float>& values = storage_.norms.emplace_back(std::move(weight));
  if (next_ == nullptr) return values.data();
  std::byte* const at = std::exchange(next_, next_ + norm_bytes(values.size()));
  placement_.stream.copy_in(at, values.data(), values.size() * sizeof(float));
  return reinterpret_cast<const float*>(at);
}

bool WeightBuffers::offloads(const ModelTensor& tensor) const {
  return placement_.ops.place_weight != nullptr &&
         is_offloaded(tensor.layer, model_.config.num_layers, placement_.offloaded_layers);
}

std::vector<Buffer>& WeightBuffers::of(const ModelTensor& tensor) {
  if (tensor.layer != layer_) finish();
  if (!offloads(tensor)) return model_.storage->device_buffers;
  layer_ = tensor.layer;
  return on_the_way_;
}

void WeightBuffers::finish() {
  if (on_the_way_.empty()) return;
  Stream& stream = placement_.stream;
  uint64_t bytes = 0;
  for (const Buffer& buffer : on_the_way_) bytes += aligned(buffer.bytes());
  Buffer& host = model_.storage->device_buffers.emplace_back(stream.allocate_host(bytes));
  auto* to = host.as<std::byte>();
  LayerWeights& layer = model_.layers[static_cast<size_t>(layer_)];
  layer.host_memory = {to, bytes};
  for (const Buffer& buffer : on_the_way_) {
    stream.copy(to, buffer.data(), buffer.bytes());
    layer.move({buffer.as<std::byte>(), buffer.bytes()}, to);
    to += aligned(buffer.bytes());
  }
  on_the_way_.clear();  // which waits for the copies
}

WeightView own_nf4(ModelStorage& storage, const Placement& placement, Nf4Storage weight,
                   std::vector<Buffer>& buffers) {
  if (placement.ops.place_weight != nullptr)
    return placement.ops.place_weight(placement.stream, view_of(weight), buffers);
  return view_of(storage.keep(std::move(weight)));
}

bool stays_on_host(const ModelConfig& config, TensorRole role, DType dtype) {
  return role == TensorRole::kEmbedding && !config.tie_word_embeddings && !is_quantized(dtype) &&
         dtype != DType::kNF4;
}

WeightView own_weight(const Placement& placement, const ModelConfig& config, TensorRole role,
                      const WeightView& weight, std::vector<Buffer>& buffers) {
  if (placement.ops.place_weight == nullptr) return weight;
  if (!stays_on_host(config, role, weight.dtype))
    return placement.ops.place_weight(placement.stream, weight, buffers);
  const auto bytes = static_cast<size_t>(dtype_bytes(weight.dtype, weight.rows * weight.columns));
  Buffer& buffer = buffers.emplace_back(placement.stream.allocate_host(bytes));
  std::memcpy(buffer.data(), weight.data, bytes);
  WeightView placed = weight;
  placed.data = buffer.data();
  return placed;
}

WeightMemory measure_weights(const ModelConfig& config, DeviceKind device,
                             const std::function<DType(const ModelTensor&)>& dtype_of) {
  const bool on_device = device != DeviceKind::kCpu;
  WeightMemory memory;
  std::vector<uint64_t> layers(static_cast<size_t>(config.num_layers));
  for (const ModelTensor& tensor : model_tensors(config)) {
    const DType dtype = is_norm(tensor.role) ? DType::kF32 : dtype_of(tensor);
    if (on_device && stays_on_host(config, tensor.role, dtype)) continue;
    for (const uint64_t bytes : array_bytes(dtype, element_count(tensor.shape))) {
      const uint64_t taken = on_device ? aligned(bytes) : bytes;
      memory.total += taken;
      if (is_projection(tensor.role)) layers[static_cast<size_t>(tensor.layer)] += taken;
    }
  }
  memory.layer = *std::max_element(layers.begin(), layers.end());
  return memory;
}

void assign(Model& model, const ModelTensor& tensor, const float* norm, const WeightView& weight) {
  LayerWeights* layer = tensor.layer >= 0 ? &model.layers[static_cast<size_t>(tensor.layer)] : nullptr;
  switch (tensor.role) {
    case TensorRole::kEmbedding:
      model.embedding = weight;
      return;
    case TensorRole::kLmHead:
      model.lm_head = weight;
      return;
    case TensorRole::kFinalNorm:
      model.final_norm = norm;
      return;
    case TensorRole::kAttentionNorm:
      layer->attention_norm = norm;
      return;
    case TensorRole::kFfnNorm:
      layer->ffn_norm = norm;
      return;
    case TensorRole::kQNorm:
      layer->query_norm = norm;
      return;
    case TensorRole::kKNorm:
      layer->key_norm = norm;
      return;
    case TensorRole::kQ:
      layer->query = weight;
      return;
    case TensorRole::kK:
      layer->key = weight;
      return;
    case TensorRole::kV:
      layer->value = weight;
      return;
    case TensorRole::kO:
      layer->output = weight;
      return;
    case TensorRole::kGate:
      layer->gate = weight;
      return;
    case TensorRole::kUp:
      layer->up = weight;
      return;
    case TensorRole::kDown:
      layer->down = weight;
      return;
  }
}

void finish(Model& model) {
  if (model.lm_head.data == nullptr) model.lm_head = model.embedding;
  model.weight_bytes = 0;
  model.parameters = 0;
  const auto count = [&](const WeightView& weight) {
    model.weight_bytes += weight_bytes(weight);
    model.parameters += static_cast<uint64_t>(weight.rows * weight.columns);
  };
  count(model.embedding);
  if (model.lm_head.data != model.embedding.data) count(model.lm_head);
  for (const LayerWeights& layer : model.layers)
    for (TensorRole role : lora_target_roles()) count(layer.linear(role));
  for (const auto& norm : model.storage->norms) {
    model.weight_bytes += norm.size() * sizeof(float);
    model.parameters += norm.size();
  }
}

}  // namespace onggi

#include "model/model.h"

#include <cstring>

#include "base/error.h"
#include "base/random.h"
#include "base/text.h"
#include "blocks/block_format.h"
#include "blocks/nf4.h"
#include "formats/safetensors.h"
#include "model/storage.h"

namespace onggi {
namespace {

bool is_norm(TensorRole role) {
  return role == TensorRole::kAttentionNorm || role == TensorRole::kFfnNorm || role == TensorRole::kQNorm ||
         role == TensorRole::kKNorm || role == TensorRole::kFinalNorm;
}

bool is_projection(TensorRole role) {
  return role >= TensorRole::kQ && role <= TensorRole::kDown && !is_norm(role);
}

// The norm's weight, owned by the storage, where kernels read it.
const float* own_norm(ModelStorage& storage, const Placement& placement, std::vector<float> weight) {
  const std::vector<float>& values = storage.norms.emplace_back(std::move(weight));
  if (placement.ops.place_weight == nullptr) return values.data();
  const size_t bytes = values.size() * sizeof(float);
  Buffer& buffer = storage.device_buffers.emplace_back(placement.stream.allocate(bytes));
  placement.stream.copy_in(buffer.data(), values.data(), bytes);
  return buffer.as<float>();
}

std::vector<float> norm_of(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  read_as_f32(tensor, 0, tensor.elements(), values.data());
  return values;
}

WeightView view_of(const Nf4Storage& weight) {
  return {DType::kNF4,
          weight.rows,
          weight.columns,
          weight.packed.data(),
          weight.absmax_q8.data(),
          weight.nested_absmax.data(),
          weight.offset};
}

// NF4 weights are made on the host and belong to the model.
WeightView own_nf4(ModelStorage& storage, const Placement& placement, Nf4Storage weight) {
  if (placement.ops.place_weight != nullptr)
    return placement.ops.place_weight(placement.stream, view_of(weight), storage.device_buffers);
  return view_of(storage.keep(std::move(weight)));
}

// An embedding that is no output matrix as well is read a few rows at a time: it stays in host memory, which
// the device reads through the bus, where its rows are plain.
WeightView place_embedding(ModelStorage& storage, const Placement& placement, const WeightView& weight) {
  if (is_quantized(weight.dtype) || weight.dtype == DType::kNF4)
    return placement.ops.place_weight(placement.stream, weight, storage.device_buffers);
  const auto bytes = static_cast<size_t>(dtype_bytes(weight.dtype, weight.rows * weight.columns));
  Buffer& buffer = storage.device_buffers.emplace_back(placement.stream.allocate_host(bytes));
  std::memcpy(buffer.data(), weight.data, bytes);
  WeightView placed = weight;
  placed.data = buffer.data();
  return placed;
}

// Any other weight: where it lies in host memory, or on the device.
WeightView own_weight(ModelStorage& storage, const Placement& placement, const ModelConfig& config,
                      TensorRole role, const WeightView& weight) {
  if (placement.ops.place_weight == nullptr) return weight;
  if (role == TensorRole::kEmbedding && !config.tie_word_embeddings)
    return place_embedding(storage, placement, weight);
  return placement.ops.place_weight(placement.stream, weight, storage.device_buffers);
}

// Quantises a tensor row block by row block; the largest f32 copy is one row block per thread.
Nf4Storage quantize_to_nf4(const TensorView& tensor, ThreadPool& threads) {
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
  Nf4Encoder encoder(rows, columns);
  constexpr int64_t kRowsAtOnce = 16;
  std::vector<std::vector<float>> buffers(static_cast<size_t>(threads.size()));
  threads.parallel_for(rows, 1, [&](int64_t begin, int64_t end, int thread) {
    std::vector<float>& buffer = buffers[static_cast<size_t>(thread)];
    buffer.resize(static_cast<size_t>(kRowsAtOnce * columns));
    for (int64_t row = begin; row < end; row += kRowsAtOnce) {
      const int64_t count = std::min(kRowsAtOnce, end - row) * columns;
      read_as_f32(tensor, row * columns, count, buffer.data());
      encoder.encode(row * columns, count, buffer.data());
    }
  });
  return encoder.finish();
}

// A 16-bit tensor as NF4, encoded on the device where it can, else on the host.
WeightView load_as_nf4(ModelStorage& storage, const Placement& placement, const TensorView& tensor,
                       const std::string& name, ThreadPool& threads) {
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
  if (is_quantized(tensor.dtype))
    throw InputError(
        text("{} is {} already: QLoRA needs the 16-bit base model", name, dtype_name(tensor.dtype)));
  if (columns % kNf4BlockElements != 0)
    throw InputError(
        text("{} has rows of {} values; NF4 needs a multiple of {}", name, columns, kNf4BlockElements));
  if (placement.ops.encode_nf4 != nullptr)
    return placement.ops.encode_nf4(placement.stream, {tensor.dtype, rows, columns, tensor.data},
                                    storage.device_buffers);
  return own_nf4(storage, placement, quantize_to_nf4(tensor, threads));
}

// Puts a tensor where its role says.
void place(Model& model, const ModelTensor& tensor, const float* norm, const WeightView& weight) {
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

uint64_t weight_bytes(const WeightView& weight) {
  uint64_t bytes = static_cast<uint64_t>(dtype_bytes(weight.dtype, weight.rows * weight.columns));
  if (weight.dtype == DType::kNF4) {
    const auto blocks = static_cast<uint64_t>(weight.rows * weight.columns / kNf4BlockElements);
    bytes += blocks + (blocks + kNf4NestedBlocks - 1) / kNf4NestedBlocks * sizeof(float);
  }
  return bytes;
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

}  // namespace

const WeightView& LayerWeights::linear(TensorRole role) const {
  switch (role) {
    case TensorRole::kQ:
      return query;
    case TensorRole::kK:
      return key;
    case TensorRole::kV:
      return value;
    case TensorRole::kO:
      return output;
    case TensorRole::kGate:
      return gate;
    case TensorRole::kUp:
      return up;
    case TensorRole::kDown:
      return down;
    default:
      throw_internal_error("role is a projection", __FILE__, __LINE__, "");
  }
}

std::shared_ptr<Model> load_model(const std::filesystem::path& path, const LoadOptions& options,
                                  ThreadPool& threads, const Placement& placement) {
  auto model = std::make_shared<Model>();
  auto storage = std::make_shared<ModelStorage>();
  model->storage = storage;
  model->source = path.string();
  NameStyle style = NameStyle::kHuggingFace;
  if (std::filesystem::is_directory(path)) {
    model->config = read_hf_config(path);
    storage->source = std::make_unique<ShardedSafetensors>(path);
  } else {
    style = NameStyle::kGguf;
    auto reader = std::make_unique<GgufReader>(path);
    model->config = parse_gguf_config(reader->header());
    storage->source = std::move(reader);
  }
  check_tensors(model->config, style, *storage->source);
  model->layers.resize(static_cast<size_t>(model->config.num_layers));
  for (const ModelTensor& tensor : model_tensors(model->config)) {
    const std::string& name = tensor.name(style);
    const TensorView view = storage->source->tensor(name);
    const float* norm = nullptr;
    WeightView weight;
    if (is_norm(tensor.role)) {
      norm = own_norm(*storage, placement, norm_of(view));
    } else if (options.quantization == LoadQuantization::kNf4 && is_projection(tensor.role)) {
      weight = load_as_nf4(*storage, placement, view, name, threads);
      storage->source->release(name);
    } else {
      weight = own_weight(*storage, placement, model->config, tensor.role,
                          {view.dtype, view.shape[0], view.shape[1], view.data});
      if (weight.data != view.data) storage->source->release(name);
    }
    place(*model, tensor, norm, weight);
  }
  finish(*model);
  if (options.adapter) {
    model->adapter = std::make_shared<LoraParameters>(load_adapter(options.adapter->string(), model->config));
    model->adapter->place(placement.stream);
  }
  return model;
}

namespace {

// The dtype of a projection in a random model.
DType body_dtype(RandomBody body, TensorRole role, int64_t layer) {
  switch (body) {
    case RandomBody::kBF16:
      return DType::kBF16;
    case RandomBody::kNf4:
      return DType::kNF4;
    case RandomBody::kQ8_0:
      return DType::kQ8_0;
    case RandomBody::kQ4_K_M:
      // As in a Q4_K_M file, about half of the value and down projections carry six bits.
      if ((role == TensorRole::kV || role == TensorRole::kDown) && layer % 2 == 0) return DType::kQ6_K;
      return DType::kQ4_K;
  }
  return DType::kBF16;
}

constexpr int64_t kDistinctRows = 8;

// An NF4 matrix whose rows repeat a few; the scales repeat with them, so that any width will do.
Nf4Storage repeated_nf4(int64_t rows, int64_t columns, const std::vector<float>& values) {
  Nf4Encoder encoder(kDistinctRows, columns);
  encoder.encode(0, kDistinctRows * columns, values.data());
  const Nf4Storage few = encoder.finish();
  Nf4Storage all;
  all.rows = rows;
  all.columns = columns;
  all.offset = few.offset;
  const auto blocks = static_cast<size_t>(rows * columns / kNf4BlockElements);
  all.packed.resize(static_cast<size_t>(rows * columns / 2));
  all.absmax_q8.resize(blocks);
  for (size_t at = 0; at < all.packed.size(); at += few.packed.size())
    std::memcpy(all.packed.data() + at, few.packed.data(),
                std::min(few.packed.size(), all.packed.size() - at));
  for (size_t at = 0; at < blocks; at += few.absmax_q8.size())
    std::memcpy(all.absmax_q8.data() + at, few.absmax_q8.data(), std::min(few.absmax_q8.size(), blocks - at));
  all.nested_absmax.assign((blocks + kNf4NestedBlocks - 1) / kNf4NestedBlocks, few.nested_absmax[0]);
  return all;
}

// A random matrix. Only a few rows are drawn and encoded; the others repeat them, which costs as much to
// read.
WeightView random_weight(ModelStorage& storage, const Placement& placement, const ModelTensor& tensor,
                         DType dtype, Random& random, const ModelConfig& config) {
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
  std::vector<float> values(static_cast<size_t>(kDistinctRows * columns));
  for (float& value : values) value = 0.02f * random.normal();
  if (dtype == DType::kNF4) return own_nf4(storage, placement, repeated_nf4(rows, columns, values));
  const auto row_bytes = static_cast<size_t>(dtype_bytes(dtype, columns));
  std::vector<std::byte> encoded(kDistinctRows * row_bytes);
  for (int64_t row = 0; row < kDistinctRows; ++row)
    block_format(dtype).encode(values.data() + row * columns, columns, nullptr,
                               encoded.data() + static_cast<size_t>(row) * row_bytes);
  std::byte* data = storage.allocate(static_cast<size_t>(rows) * row_bytes);
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(data + static_cast<size_t>(row) * row_bytes,
                encoded.data() + static_cast<size_t>(row % kDistinctRows) * row_bytes, row_bytes);
  const WeightView weight = own_weight(storage, placement, config, tensor.role, {dtype, rows, columns, data});
  if (weight.data != data) storage.free_last();
  return weight;
}

}  // namespace

std::shared_ptr<Model> random_model(const ModelConfig& config, RandomBody body, uint64_t seed,
                                    const Placement& placement) {
  auto model = std::make_shared<Model>();
  auto storage = std::make_shared<ModelStorage>();
  model->storage = storage;
  model->config = config;
  model->source = "random weights";
  model->layers.resize(static_cast<size_t>(config.num_layers));
  uint64_t stream = 0;
  for (const ModelTensor& tensor : model_tensors(config)) {
    Random random(seed, stream++);
    if (is_norm(tensor.role)) {
      const float* norm = own_norm(
          *storage, placement, std::vector<float>(static_cast<size_t>(element_count(tensor.shape)), 1.0f));
      place(*model, tensor, norm, {});
      continue;
    }
    DType dtype = body_dtype(body, tensor.role, tensor.layer);
    if (!is_projection(tensor.role))
      dtype = body == RandomBody::kQ4_K_M ? DType::kQ6_K
              : body == RandomBody::kQ8_0 ? DType::kQ8_0
                                          : DType::kBF16;
    place(*model, tensor, nullptr, random_weight(*storage, placement, tensor, dtype, random, config));
  }
  finish(*model);
  return model;
}

}  // namespace onggi

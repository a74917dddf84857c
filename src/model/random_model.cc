#include <cstring>

#include "base/random.h"
#include "blocks/block_format.h"
#include "blocks/nf4.h"
#include "model/weights.h"

namespace onggi {
namespace {

// The dtype of a matrix in a random model.
DType dtype_of(RandomBody body, const ModelTensor& tensor) {
  if (!is_projection(tensor.role))
    return body == RandomBody::kQ4_K_M ? DType::kQ6_K
           : body == RandomBody::kQ8_0 ? DType::kQ8_0
                                       : DType::kBF16;
  switch (body) {
    case RandomBody::kBF16:
      return DType::kBF16;
    case RandomBody::kNf4:
      return DType::kNF4;
    case RandomBody::kQ8_0:
      return DType::kQ8_0;
    case RandomBody::kQ4_K_M:
      // As in a Q4_K_M file, about half of the value and down projections carry six bits.
      if ((tensor.role == TensorRole::kV || tensor.role == TensorRole::kDown) && tensor.layer % 2 == 0)
        return DType::kQ6_K;
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
                         DType dtype, Random& random, const ModelConfig& config,
                         std::vector<Buffer>& buffers) {
  const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
  std::vector<float> values(static_cast<size_t>(kDistinctRows * columns));
  for (float& value : values) value = 0.02f * random.normal();
  if (dtype == DType::kNF4) return own_nf4(storage, placement, repeated_nf4(rows, columns, values), buffers);
  const auto row_bytes = static_cast<size_t>(dtype_bytes(dtype, columns));
  std::vector<std::byte> encoded(kDistinctRows * row_bytes);
  for (int64_t row = 0; row < kDistinctRows; ++row)
    block_format(dtype).encode(values.data() + row * columns, columns, nullptr,
                               encoded.data() + static_cast<size_t>(row) * row_bytes);
  std::byte* data = storage.allocate(static_cast<size_t>(rows) * row_bytes);
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(data + static_cast<size_t>(row) * row_bytes,
                encoded.data() + static_cast<size_t>(row % kDistinctRows) * row_bytes, row_bytes);
  const WeightView weight = own_weight(placement, config, tensor.role, {dtype, rows, columns, data}, buffers);
  if (weight.data != data) storage.free_last();
  return weight;
}

}  // namespace

WeightMemory measure_random_weights(const ModelConfig& config, RandomBody body, DeviceKind device) {
  return measure_weights(config, device, [&](const ModelTensor& tensor) { return dtype_of(body, tensor); });
}

std::shared_ptr<Model> random_model(const ModelConfig& config, RandomBody body, uint64_t seed,
                                    const Placement& placement) {
  auto model = std::make_shared<Model>();
  auto storage = std::make_shared<ModelStorage>();
  model->storage = storage;
  model->config = config;
  model->source = "random weights";
  model->layers.resize(static_cast<size_t>(config.num_layers));
  uint64_t stream = 0;
  const std::vector<ModelTensor> tensors = model_tensors(config);
  Norms norms(*storage, placement, tensors);
  WeightBuffers buffers(*model, placement);
  for (const ModelTensor& tensor : tensors) {
    Random random(seed, stream++);
    if (is_norm(tensor.role)) {
      const float* norm =
          norms.own(std::vector<float>(static_cast<size_t>(element_count(tensor.shape)), 1.0f));
      assign(*model, tensor, norm, {});
      continue;
    }
    assign(*model, tensor, nullptr,
           random_weight(*storage, placement, tensor, dtype_of(body, tensor), random, config,
                         buffers.of(tensor)));
  }
  buffers.finish();
  finish(*model);
  return model;
}

}  // namespace onggi

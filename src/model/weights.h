// What loading and making a model have in common: whose the weights are, and where they go.
#pragma once

#include <vector>

#include "model/model.h"
#include "model/storage.h"
#include "model/tensor_names.h"

namespace onggi {

bool is_norm(TensorRole role);
bool is_projection(TensorRole role);

// Norm weights, owned by the storage: f32 in host memory, and where kernels read them. One allocation on the
// device holds all.
class Norms {
 public:
  Norms(ModelStorage& storage, const Placement& placement, const std::vector<ModelTensor>& tensors);
  const float* own(std::vector<float> weight);

 private:
  ModelStorage& storage_;
  const Placement& placement_;
  std::byte* next_ = nullptr;  // on the device; null: kernels read host memory
};

// Where weights go that leave host memory: to the device, or by way of it, a layer at a time, to the
// page-locked memory of offloaded layers.
class WeightBuffers {
 public:
  WeightBuffers(Model& model, const Placement& placement) : model_(model), placement_(placement) {}

  bool offloads(const ModelTensor& tensor) const;
  // What the tensor's memory on the device is appended to. Tensors come in the order of model_tensors(), and
  // are assigned to the model before the next one comes.
  std::vector<Buffer>& of(const ModelTensor& tensor);
  // After the last one.
  void finish();

 private:
  Model& model_;
  const Placement& placement_;
  int64_t layer_ = -1;  // that is on its way
  std::vector<Buffer> on_the_way_;
};

// NF4 weights are made on the host and belong to the model.
WeightView own_nf4(ModelStorage& storage, const Placement& placement, Nf4Storage weight,
                   std::vector<Buffer>& buffers);

// An embedding that is no output matrix as well is read a few rows at a time: it stays in host memory, which
// the device reads through the bus, where its rows are plain.
bool stays_on_host(const ModelConfig& config, TensorRole role, DType dtype);

// Any other weight: where it lies in host memory, or on the device.
WeightView own_weight(const Placement& placement, const ModelConfig& config, TensorRole role,
                      const WeightView& weight, std::vector<Buffer>& buffers);

// Puts a tensor where its role says: a norm, or a weight.
void assign(Model& model, const ModelTensor& tensor, const float* norm, const WeightView& weight);

// Once all tensors are there: ties the output matrix and counts.
void finish(Model& model);

}  // namespace onggi

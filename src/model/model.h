// A model in memory: its configuration, its weights in whatever dtype they were loaded, and an adapter, if
// any. The same object is trained on, validated and served; only the weights differ.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/threads.h"
#include "kernels/table.h"
#include "model/config.h"
#include "model/lora.h"

namespace onggi {

// The weights of one transformer block. Norm weights are f32 whatever the file has.
struct LayerWeights {
  const float* attention_norm;  // f32 [C]
  WeightView query;             // [Hq D, C]
  WeightView key;               // [Hkv D, C]
  WeightView value;             // [Hkv D, C]
  WeightView output;            // [C, Hq D]
  const float* query_norm;      // f32 [D]; null: the architecture has none
  const float* key_norm;        // f32 [D]; null likewise
  const float* ffn_norm;        // f32 [C]
  WeightView gate;              // [F, C]
  WeightView up;                // [F, C]
  WeightView down;              // [C, F]
  // Of an offloaded layer: the page-locked memory that all its projections lie in. Kernels can read them
  // there, at the bus's speed; training passes bring them to the device (streamed_layers.h). Empty: they are
  // where kernels read them best.
  std::span<const std::byte> host_memory;

  const WeightView& linear(TensorRole role) const;  // kQ ... kDown
  // Has the projections' parts that lie in `from` lie at `to`, in the same places.
  void move(std::span<const std::byte> from, const std::byte* to);
};

class ModelStorage;  // owns maps and buffers (model.cc)

struct Model {
  ModelConfig config;
  WeightView embedding;                     // [V, C]
  WeightView lm_head;                       // [V, C]; the embedding itself when tied
  const float* final_norm = nullptr;        // f32 [C]
  std::vector<LayerWeights> layers;         // L
  std::shared_ptr<LoraParameters> adapter;  // null: none
  std::shared_ptr<ModelStorage> storage;
  std::string source;         // the path that it was loaded from
  uint64_t weight_bytes = 0;  // of all weights as they are in memory
  uint64_t parameters = 0;    // element count of all weights
  LoadTimes load_times;       // of load_model()

  LoraView lora(TensorRole role, int64_t layer) const {
    return adapter ? adapter->view(role, layer) : LoraView{};
  }
};

enum class LoadQuantization {
  kAsStored,  // weights stay memory-mapped in the dtype of the file
  kNf4,       // the seven projections of each block become NF4 while they are read, one tensor at a time
};

// Where a model's weights go: they stay in host memory for the CPU's kernels, and are taken to the stream's
// device, in the layout that its kernels want, for others. There the projections of some layers may be
// offloaded: they lie, in the same layout, in page-locked host memory.
struct Placement {
  const OpTable& ops = cpu_ops();
  Stream& stream = cpu_stream();
  int64_t offloaded_layers = 0;
};

struct LoadOptions {
  LoadQuantization quantization = LoadQuantization::kAsStored;
  std::optional<std::filesystem::path> adapter;  // a PEFT adapter folder
};

// What a model's weights take where kernels read them, in bytes, before any are read.
struct WeightMemory {
  uint64_t total = 0;  // with all layers there
  uint64_t layer = 0;  // what offloading one layer takes away
};
// Of load_model(). Reads the headers of the files alone; throws InputError as it does.
WeightMemory measure_weights(const std::filesystem::path& path, LoadQuantization quantization,
                             DeviceKind device);
// Of tensors of these dtypes.
WeightMemory measure_weights(const ModelConfig& config, DeviceKind device,
                             const std::function<DType(const ModelTensor&)>& dtype_of);

// Loads an HF folder (config.json + safetensors) or a GGUF file. Never holds a second copy of the model: NF4
// takes one tensor's fp32 rows at a time. Throws InputError for what is missing, misshapen or not supported.
std::shared_ptr<Model> load_model(const std::filesystem::path& path, const LoadOptions& options,
                                  ThreadPool& threads, const Placement& placement = {});

// A model of this shape with random weights of a dtype (benchmarks, tests): normal with deviation 0.02.
enum class RandomBody { kBF16, kNf4, kQ4_K_M, kQ8_0 };
WeightMemory measure_random_weights(const ModelConfig& config, RandomBody body, DeviceKind device);
std::shared_ptr<Model> random_model(const ModelConfig& config, RandomBody body, uint64_t seed,
                                    const Placement& placement = {});

// How a device stores what lies between the ops of a pass; rank: of the adapter, 0: none.
struct ActivationFormat {
  DeviceKind device = DeviceKind::kCpu;
  DType dtype = DType::kF32;     // of activations
  int64_t row_padding = 0;       // OpTable::row_padding
  uint64_t workspace_bytes = 0;  // OpTable::workspace_bytes

  static ActivationFormat of(const OpTable& ops, DeviceKind device, Precision precision, int64_t rank);
};

// Everything that computes needs besides the model.
struct Compute {
  const OpTable& ops;
  OpContext context;
  Precision precision = Precision::kFast;

  Stream& stream() const { return context.stream; }
  // Of activations between the ops.
  DType activation_dtype() const { return ops.activation_dtype(precision); }
};

}  // namespace onggi

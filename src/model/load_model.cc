#include <chrono>
#include <span>

#include "base/error.h"
#include "base/text.h"
#include "blocks/nf4.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "model/weights.h"

namespace onggi {
namespace {

std::vector<float> norm_of(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  read_as_f32(tensor, 0, tensor.elements(), values.data());
  return values;
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

void check_nf4(const std::string& name, DType dtype, int64_t columns) {
  if (is_quantized(dtype))
    throw InputError(text("{} is {} already: QLoRA needs the 16-bit base model", name, dtype_name(dtype)));
  if (columns % kNf4BlockElements != 0)
    throw InputError(
        text("{} has rows of {} values; NF4 needs a multiple of {}", name, columns, kNf4BlockElements));
}

// Brings the tensors of a model's files where they belong. Those that go to a device as they are in the file
// wait until all are known, and go together.
class Loader {
 public:
  Loader(Model& model, NameStyle style, ThreadPool& threads, const Placement& placement)
      : model_(model),
        storage_(*model.storage),
        style_(style),
        threads_(threads),
        placement_(placement),
        buffers_(model, placement) {}

  void load(LoadQuantization quantization) {
    const std::vector<ModelTensor> tensors = model_tensors(model_.config);
    Norms norms(storage_, placement_, tensors);
    for (const ModelTensor& tensor : tensors) {
      const TensorView view = storage_.source->tensor(tensor.name(style_));
      if (is_norm(tensor.role)) {
        assign(model_, tensor, norms.own(norm_of(view)), {});
      } else if (quantization == LoadQuantization::kNf4 && is_projection(tensor.role)) {
        assign(model_, tensor, nullptr, load_nf4(tensor, view));
      } else if (placement_.ops.place_weight == nullptr) {
        assign(model_, tensor, nullptr, view_of(view));
      } else if (buffers_.offloads(tensor)) {
        assign(model_, tensor, nullptr,
               placement_.ops.place_weight(placement_.stream, view_of(view), buffers_.of(tensor)));
      } else if (stays_on_host(model_.config, tensor.role, view.dtype)) {
        assign(model_, tensor, nullptr, read_to_host(file_weight(tensor)));
      } else {
        waiting_.push_back(tensor);
      }
    }
    buffers_.finish();
    place_waiting();
  }

 private:
  static WeightView view_of(const TensorView& tensor) {
    return {tensor.dtype, tensor.shape[0], tensor.shape[1], tensor.data};
  }

  // A 16-bit tensor as NF4, encoded on the device where it can, else on the host.
  WeightView load_nf4(const ModelTensor& tensor, const TensorView& view) {
    const std::string& name = tensor.name(style_);
    check_nf4(name, view.dtype, view.shape[1]);
    std::vector<Buffer>& buffers = buffers_.of(tensor);
    const WeightView weight = placement_.ops.encode_nf4 != nullptr
                                  ? placement_.ops.encode_nf4(placement_.stream, view_of(view), buffers)
                                  : own_nf4(storage_, placement_, quantize_to_nf4(view, threads_), buffers);
    storage_.source->release(name);
    return weight;
  }

  FileWeight file_weight(const ModelTensor& tensor) const {
    const TensorInfo& info = storage_.source->info(tensor.name(style_));
    return {info.dtype, info.shape[0], info.shape[1],
            &storage_.source->files()[static_cast<size_t>(info.file)], info.offset};
  }

  // To page-locked memory.
  WeightView read_to_host(const FileWeight& weight) {
    const int64_t bytes = dtype_bytes(weight.dtype, weight.rows * weight.columns);
    auto* to =
        storage_.device_buffers.emplace_back(placement_.stream.allocate_host(static_cast<size_t>(bytes)))
            .as<std::byte>();
    constexpr int64_t kPage = 4096;
    threads_.parallel_for(bytes, kPage, [&](int64_t begin, int64_t end, int) {
      weight.file->read(weight.offset + static_cast<uint64_t>(begin), to + begin,
                        static_cast<size_t>(end - begin));
    });
    return {weight.dtype, weight.rows, weight.columns, to};
  }

  void place_waiting() {
    if (waiting_.empty()) return;
    std::vector<FileWeight> weights;
    for (const ModelTensor& tensor : waiting_) weights.push_back(file_weight(tensor));
    const PlacedWeights placed =
        placement_.ops.place_file_weights(placement_.stream, weights, storage_.device_buffers);
    for (size_t i = 0; i < waiting_.size(); ++i) assign(model_, waiting_[i], nullptr, placed.views[i]);
    model_.load_times = placed.times;
  }

  Model& model_;
  ModelStorage& storage_;
  const NameStyle style_;
  ThreadPool& threads_;
  const Placement& placement_;
  WeightBuffers buffers_;
  std::vector<ModelTensor> waiting_;
};

// Opens the files, reads the configuration and checks that all tensors are there.
NameStyle open_model(const std::filesystem::path& path, Model& model) {
  NameStyle style = NameStyle::kHuggingFace;
  if (std::filesystem::is_directory(path)) {
    model.config = read_hf_config(path);
    model.storage->source = std::make_unique<ShardedSafetensors>(path);
  } else {
    style = NameStyle::kGguf;
    auto reader = std::make_unique<GgufReader>(path);
    model.config = parse_gguf_config(reader->header());
    model.storage->source = std::move(reader);
  }
  check_tensors(model.config, style, *model.storage->source);
  return style;
}

}  // namespace

WeightMemory measure_weights(const std::filesystem::path& path, LoadQuantization quantization,
                             DeviceKind device) {
  Model model;
  model.storage = std::make_shared<ModelStorage>();
  const NameStyle style = open_model(path, model);
  return measure_weights(model.config, device, [&](const ModelTensor& tensor) {
    return quantization == LoadQuantization::kNf4 && is_projection(tensor.role)
               ? DType::kNF4
               : model.storage->source->info(tensor.name(style)).dtype;
  });
}

std::shared_ptr<Model> load_model(const std::filesystem::path& path, const LoadOptions& options,
                                  ThreadPool& threads, const Placement& placement) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  const auto begin = Clock::now();
  auto model = std::make_shared<Model>();
  model->storage = std::make_shared<ModelStorage>();
  model->source = path.string();
  const NameStyle style = open_model(path, *model);
  model->layers.resize(static_cast<size_t>(model->config.num_layers));
  Loader(*model, style, threads, placement).load(options.quantization);
  finish(*model);
  if (options.adapter) {
    model->adapter = std::make_shared<LoraParameters>(load_adapter(options.adapter->string(), model->config));
    model->adapter->place(placement.stream);
  }
  LoadTimes& times = model->load_times;
  times.total = seconds_since(begin);
  times.open = times.total - times.page_lock - times.allocate - times.read - times.copy - times.queue -
               times.give_back;
  return model;
}

}  // namespace onggi

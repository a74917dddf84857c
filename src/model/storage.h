// What a model's views point into: mapped files and buffers.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "blocks/nf4.h"
#include "device/stream.h"
#include "formats/mapped_tensors.h"

namespace onggi {

class ModelStorage {
 public:
  std::unique_ptr<MappedTensors> source;  // null for random models
  std::vector<std::vector<float>> norms;  // f32; inner vectors never move their data

  // Takes an NF4 weight over.
  const Nf4Storage& keep(Nf4Storage weight) {
    return *nf4_.emplace_back(std::make_unique<Nf4Storage>(std::move(weight)));
  }
  std::vector<Buffer> device_buffers;  // of models on a GPU
  // Bytes aligned to 64, not initialised.
  std::byte* allocate(size_t bytes) {
    return buffers_.emplace_back(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{64}))).get();
  }
  // Frees what allocate() gave last.
  void free_last() { buffers_.pop_back(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete (memory, std::align_val_t{64}); }
  };
  std::vector<std::unique_ptr<Nf4Storage>> nf4_;
  std::vector<std::unique_ptr<std::byte, Free>> buffers_;
};

}  // namespace onggi

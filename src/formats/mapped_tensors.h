// Named tensors in memory-mapped files: what the safetensors and GGUF readers have in common.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace onggi {

// What a writer declares before the data.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;  // outermost first

  uint64_t bytes() const { return static_cast<uint64_t>(dtype_bytes(dtype, element_count(shape))); }
};

// Where a tensor lies.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;          // outermost first
  uint64_t offset = 0;  // of the first byte, from the start of the file
  uint64_t bytes = 0;
  int file = 0;  // which of MappedTensors' files

  TensorSpec spec() const { return {name, dtype, shape}; }
};

// Tensors of one or several mapped files. Lookups are safe from several threads.
class MappedTensors {
 public:
  // Virtual: a model owns its reader, of whatever format, through this class.
  virtual ~MappedTensors() = default;
  MappedTensors(MappedTensors&&) = default;
  MappedTensors& operator=(MappedTensors&&) = default;

  // In the order of the files and, within a file, of the data.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  std::vector<std::string> names() const;
  uint64_t total_bytes() const;
  // The file or folder that the user named.
  const fs::path& path() const { return path_; }
  const std::vector<MappedFile>& files() const { return files_; }

  bool has(const std::string& name) const { return index_.contains(name); }
  // Throws InputError that names tensor and source when there is no such tensor.
  const TensorInfo& info(const std::string& name) const;
  // The data, valid as long as this object. Throws InputError when it is missing or not aligned to its
  // elements.
  TensorView tensor(const std::string& name) const;
  // Lets the kernel drop the pages of a tensor that has been used, so that streaming stays small.
  void release(const std::string& name) const;
  // The same of bytes [begin, begin + bytes) of the tensor.
  void release_part(const TensorInfo& info, uint64_t begin, uint64_t bytes) const;

 protected:
  explicit MappedTensors(fs::path path) : path_(std::move(path)) {}
  // Takes the file over and sets the `file` of each tensor. Throws InputError when a name is there already.
  void add_file(MappedFile file, std::vector<TensorInfo> tensors);

 private:
  fs::path path_;
  std::vector<MappedFile> files_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace onggi

#include "formats/mapped_tensors.h"

#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace onggi {

std::vector<std::string> MappedTensors::names() const {
  std::vector<std::string> names;
  names.reserve(tensors_.size());
  for (const TensorInfo& info : tensors_) names.push_back(info.name);
  return names;
}

uint64_t MappedTensors::total_bytes() const {
  uint64_t total = 0;
  for (const TensorInfo& info : tensors_) total += info.bytes;
  return total;
}

const TensorInfo& MappedTensors::info(const std::string& name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) throw InputError(text("{} has no tensor {}", path_.string(), name));
  return tensors_[found->second];
}

TensorView MappedTensors::tensor(const std::string& name) const {
  const TensorInfo& found = info(name);
  const std::byte* data = files_[static_cast<size_t>(found.file)].bytes().data() + found.offset;
  // Blocks of quantised types are made of 2-byte fields at most; plain elements want their own size.
  const auto alignment =
      static_cast<uintptr_t>(is_quantized(found.dtype) ? 2 : dtype_info(found.dtype).block_bytes);
  if (found.bytes > 0 && reinterpret_cast<uintptr_t>(data) % alignment != 0)
    throw InputError(
        text("tensor {} of {} starts at the odd byte {}: save the file again with a current writer", name,
             files_[static_cast<size_t>(found.file)].path().string(), found.offset));
  return {data, found.dtype, found.shape};
}

void MappedTensors::release(const std::string& name) const {
  const TensorInfo& found = info(name);
  release_part(found, 0, found.bytes);
}

void MappedTensors::release_part(const TensorInfo& info, uint64_t begin, uint64_t bytes) const {
  ONGGI_CHECK(begin <= info.bytes && bytes <= info.bytes - begin);
  files_[static_cast<size_t>(info.file)].release(info.offset + begin, bytes);
}

void MappedTensors::add_file(MappedFile file, std::vector<TensorInfo> tensors) {
  for (TensorInfo& info : tensors) {
    info.file = static_cast<int>(files_.size());
    if (!index_.emplace(info.name, tensors_.size()).second)
      throw InputError(text("tensor {} is in {} twice: once more in {}", info.name, path_.string(),
                            file.path().filename().string()));
    tensors_.push_back(std::move(info));
  }
  files_.push_back(std::move(file));
}

}  // namespace onggi

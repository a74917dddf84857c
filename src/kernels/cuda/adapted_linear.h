// What adapted_linear and its backward share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "device/cuda_stream.h"
#include "kernels/cuda/lora.h"

namespace onggi::cuda {

using Bf16 = __nv_bfloat16;

// K of products that take an adapter along ends at a multiple of this.
inline constexpr int64_t kLoraColumnMultiple = 64;

// Arrays of one op in the stream's working memory: sizes first, then the addresses.
class ScratchRegions {
 public:
  size_t add(size_t bytes) {
    const size_t at = bytes_;
    bytes_ += (bytes + 255) / 256 * 256;
    return at;
  }
  void reserve(CudaStream& stream) {
    if (bytes_ > 0) base_ = static_cast<std::byte*>(stream.scratch(bytes_));
  }
  template <typename T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }

 private:
  size_t bytes_ = 0;
  std::byte* base_ = nullptr;
};

template <typename Args>
LoraMembers lora_members(const Args& args) {
  LoraMembers members;
  for (size_t i = 0; i < static_cast<size_t>(args.count); ++i)
    members[i] = {args.members[i].lora, args.members[i].weight.rows, args.members[i].dropout_stream};
  return members;
}
inline int64_t largest_rank(const LoraMembers& members, int count) {
  int64_t rank = 0;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i)
    if (members[i].lora.a != nullptr) rank = std::max(rank, members[i].lora.rank);
  return rank;
}

inline size_t bf16_bytes(int64_t elements) { return static_cast<size_t>(elements) * sizeof(Bf16); }

}  // namespace onggi::cuda

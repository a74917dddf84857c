// Prefetching of host memory on an NVIDIA GPU.
#pragma once

#include <memory>

#include "device/cuda_event.h"
#include "device/cuda_stream.h"

namespace onggi {

// All buffers of a stream are filled by one other stream, in the order in which their contents are asked for.
class CudaPrefetchBuffer final : public PrefetchBuffer {
 public:
  CudaPrefetchBuffer(CudaStream& stream, size_t bytes);
  CudaPrefetchBuffer(const CudaPrefetchBuffer&) = delete;
  CudaPrefetchBuffer& operator=(const CudaPrefetchBuffer&) = delete;
  ~CudaPrefetchBuffer() override;

  std::byte* data() const override { return memory_.as<std::byte>(); }
  void fetch(const void* host, size_t bytes) override;
  void use() override;

 private:
  CudaStream& stream_;
  CudaCopyStream& copies_;
  Buffer memory_;
  CudaEvent free_, filled_;
};

}  // namespace onggi

// Copies of host memory to a GPU through page-locked memory, so that a copy's source can be reused at once.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <memory>

#include "base/threads.h"

namespace onggi {

// Small copies go through a ring of page-locked memory, large ones in turns through two large buffers, one
// being filled by several threads while the other is on its way: the page cache reaches the card at the bus's
// speed. Page-locked memory and threads are taken at first use. Every function throws MachineError.
class CudaStaging {
 public:
  explicit CudaStaging(cudaStream_t stream) : stream_(stream) {}
  CudaStaging(const CudaStaging&) = delete;
  CudaStaging& operator=(const CudaStaging&) = delete;
  // The stream must have come past all copies.
  ~CudaStaging();

  // Queues the copy; `host` may be reused at return.
  void copy_in(void* device, const void* host, size_t bytes);
  // Returns when `host` is filled.
  void copy_out(void* host, const void* device, size_t bytes);

 private:
  // Page-locked memory and the event after the last copy that uses it.
  struct Part {
    std::byte* memory = nullptr;
    cudaEvent_t free = nullptr;
  };
  static constexpr size_t kSmallBytes = 64 * 1024;  // the largest copy that takes the ring
  static constexpr size_t kRingPartBytes =
      8 * kSmallBytes;  // an event is cheaper for many copies than for each
  static constexpr size_t kLargeBytes = 16 * 1024 * 1024;

  static void make(Part& part, size_t bytes);
  static void destroy(Part& part);
  void wait_for(const Part& part) const;
  void mark(const Part& part) const;
  std::byte* ring_memory(size_t bytes);
  void copy_in_large(std::byte* device, const std::byte* host, size_t bytes);
  void fill(std::byte* to, const std::byte* from, size_t bytes);

  cudaStream_t stream_;
  std::array<Part, 4> ring_{};
  size_t ring_part_ = 0;  // the part that is being filled
  size_t ring_used_ = 0;  // bytes of it
  std::array<Part, 2> large_{};
  size_t next_large_ = 0;
  std::unique_ptr<ThreadPool> threads_;
};

}  // namespace onggi

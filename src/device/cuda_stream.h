// The stream of an NVIDIA GPU. Compiled where CUDA is built (and against the tests' emulated runtime).
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <string_view>
#include <typeindex>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "device/stream.h"

namespace onggi {

// Throws MachineError "<where>: <call> failed: <CUDA's words>" unless status is cudaSuccess. `call` is the
// CUDA function, `where` what was done: an op and its shapes, or a copy and its bytes. Where building `where`
// costs (a launch), test for cudaSuccess first.
void check_cuda(cudaError_t status, const char* call, std::string_view where);

class CudaStaging;

class CudaStream final : public Stream {
 public:
  // Opens the device; MachineError where it does not answer.
  explicit CudaStream(int device_index);
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  ~CudaStream() override;

  const Device& device() const override { return device_; }
  Buffer allocate(size_t bytes) override;
  Buffer allocate_host(size_t bytes) override;
  void copy_in(void* device, const void* host, size_t bytes) override;
  void copy_out(void* host, const void* device, size_t bytes) override;
  // Queued and not waited for. Memory of allocate_host() is the device's too: it may be either side, and must
  // then stay as it is until the stream has come past.
  void copy(void* to, const void* from, size_t bytes) override;
  void fill_zero(void* device, size_t bytes) override;
  void synchronize() override;
  std::unique_ptr<PrefetchBuffer> make_prefetch_buffer(size_t bytes) override;
  uint64_t allocated_bytes() const override { return allocated_bytes_; }
  uint64_t peak_bytes() const override { return peak_bytes_; }
  void reset_peak() override { peak_bytes_ = allocated_bytes_; }
  uint64_t free_bytes() const override;
  bool begin_recording() override;
  std::unique_ptr<Recording> end_recording() override;
  void replay(Recording& recording) override;

  // What kernels need.
  cudaStream_t handle() const { return handle_; }
  int device_index() const { return device_.index; }
  int multiprocessors() const { return multiprocessors_; }
  int compute_capability() const { return compute_capability_; }  // 10 * major + minor: 80, 86, 89, 90
  size_t max_shared_bytes() const { return max_shared_bytes_; }  // per block, dynamic included (opt-in limit)
  bool recording() const { return recording_; }

  // Working memory of one op on the device: at least `bytes`, aligned to 256, not initialised, valid until
  // the next op on the stream asks. One region that grows (which waits for the stream) and is kept; counted
  // in allocated_bytes(). While a recording is made it must not grow (InternalError): run the pass once
  // before.
  void* scratch(size_t bytes);

  // An object that lives as long as the stream and is made at first use; one of each type. For what belongs
  // to a device and costs to make: a cuBLASLt handle, its workspace, a table in device memory.
  //   auto& products = stream.attachment<CublasLtHandle>([&] { return std::make_shared<CublasLtHandle>(); });
  template <typename T, typename Make>
  T& attachment(const Make& make) {
    std::shared_ptr<void>& slot = attachments_[std::type_index(typeid(T))];
    if (slot == nullptr) {
      slot = std::shared_ptr<T>(make());
      attachment_order_.push_back(std::type_index(typeid(T)));
    }
    return *static_cast<T*>(slot.get());
  }

  // The current thread's CUDA calls go to this stream's device.
  void activate() const;
  // Lets `kernel` use `bytes` of dynamic shared memory (a kernel may use 48 KiB unasked). MachineError where
  // the device has less.
  void allow_shared_memory(const void* kernel, size_t bytes);
  // Has the multiprocessors that run `kernel` give shared memory as much room as they can.
  void prefer_shared_memory(const void* kernel);
  // The name of the kernel that was launched last: what a later asynchronous error most likely comes from.
  void note_op(const char* op) { last_op_ = op; }

 private:
  class CudaRecording;
  // Device memory of scratch(); recordings keep the region that their kernels use.
  struct Region;
  struct Allocation {
    size_t bytes = 0;
    bool on_host = false;
  };

  void free(void* data, size_t bytes) override;
  void release(void* data);
  void* allocate_device(size_t bytes);
  void free_device(void* data, size_t bytes);
  [[noreturn]] void throw_out_of_memory(size_t bytes) const;
  void expect_not_recording(const char* what) const;
  // "copying 4096 bytes to the device (last kernel: rms_norm)"
  std::string where(std::string_view action, size_t bytes) const;
  void check(cudaError_t status, const char* call, std::string_view action, size_t bytes = 0) const;

  Device device_;
  cudaStream_t handle_ = nullptr;
  int multiprocessors_ = 0;
  int compute_capability_ = 0;
  size_t max_shared_bytes_ = 0;
  uint64_t allocated_bytes_ = 0;
  uint64_t peak_bytes_ = 0;
  bool recording_ = false;
  const char* last_op_ = nullptr;
  std::unordered_map<void*, Allocation> allocations_;
  std::vector<void*> freed_while_recording_;
  std::unordered_map<const void*, size_t> shared_limits_;
  std::unordered_set<const void*> prefers_shared_;
  std::shared_ptr<Region> scratch_;
  std::unique_ptr<CudaStaging> staging_;
  std::unordered_map<std::type_index, std::shared_ptr<void>> attachments_;
  std::vector<std::type_index> attachment_order_;  // the last made goes first
};

}  // namespace onggi

// Points in the work of a GPU, and streams for copies beside it.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

namespace onggi {

// A point in a stream; without it being recorded, it is past. Every function throws MachineError.
class CudaEvent {
 public:
  CudaEvent();
  CudaEvent(CudaEvent&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  ~CudaEvent();

  void record(cudaStream_t stream) const;
  // What is queued on `stream` from now on comes after this point.
  void hold_back(cudaStream_t stream) const;
  void wait() const;

 private:
  cudaEvent_t handle_ = nullptr;
};

// A stream for copies that go on beside the work of a CudaStream. It is waited for at its end, so that memory
// it copies from may go afterwards.
class CudaCopyStream {
 public:
  CudaCopyStream();
  CudaCopyStream(const CudaCopyStream&) = delete;
  CudaCopyStream& operator=(const CudaCopyStream&) = delete;
  ~CudaCopyStream();
  cudaStream_t handle() const { return handle_; }

 private:
  cudaStream_t handle_ = nullptr;
};

}  // namespace onggi

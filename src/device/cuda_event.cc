#include "device/cuda_event.h"

#include "device/cuda_stream.h"

namespace onggi {
namespace {

constexpr const char* kCopying = "copying beside the GPU's work";

}  // namespace

CudaEvent::CudaEvent() {
  check_cuda(cudaEventCreateWithFlags(&handle_, cudaEventDisableTiming), "cudaEventCreate", kCopying);
}

CudaEvent::~CudaEvent() {
  if (handle_ != nullptr) cudaEventDestroy(handle_);
}

void CudaEvent::record(cudaStream_t stream) const {
  check_cuda(cudaEventRecord(handle_, stream), "cudaEventRecord", kCopying);
}

void CudaEvent::hold_back(cudaStream_t stream) const {
  check_cuda(cudaStreamWaitEvent(stream, handle_, 0), "cudaStreamWaitEvent", kCopying);
}

void CudaEvent::wait() const { check_cuda(cudaEventSynchronize(handle_), "cudaEventSynchronize", kCopying); }

CudaCopyStream::CudaCopyStream() {
  check_cuda(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreate", kCopying);
}

// An error has nobody to go to here; the streams that wait for the copies report those that matter.
CudaCopyStream::~CudaCopyStream() {
  cudaStreamSynchronize(handle_);
  cudaStreamDestroy(handle_);
}

}  // namespace onggi

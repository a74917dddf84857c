#include "device/cuda_staging.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "device/cuda_stream.h"

namespace onggi {

namespace {
constexpr const char* kToDevice = "copying to the GPU";
constexpr const char* kToHost = "copying from the GPU";
// One thread reads the page cache at a fraction of the bus's speed; more than this few add nothing.
constexpr unsigned kCopyThreads = 8;
constexpr int64_t kCopyGrain = 4096;
}  // namespace

CudaStaging::~CudaStaging() {
  for (Part& part : ring_) destroy(part);
  for (Part& part : large_) destroy(part);
}

void CudaStaging::make(Part& part, size_t bytes) {
  if (part.memory != nullptr) return;
  void* memory = nullptr;
  check_cuda(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), "cudaHostAlloc", kToDevice);
  part.memory = static_cast<std::byte*>(memory);
  check_cuda(cudaEventCreateWithFlags(&part.free, cudaEventDisableTiming), "cudaEventCreate", kToDevice);
}

void CudaStaging::destroy(Part& part) {
  if (part.free != nullptr) cudaEventDestroy(part.free);
  if (part.memory != nullptr) cudaFreeHost(part.memory);
  part = {};
}

// An event that was never recorded is past.
void CudaStaging::wait_for(const Part& part) const {
  check_cuda(cudaEventSynchronize(part.free), "cudaEventSynchronize", kToDevice);
}

void CudaStaging::mark(const Part& part) const {
  check_cuda(cudaEventRecord(part.free, stream_), "cudaEventRecord", kToDevice);
}

std::byte* CudaStaging::ring_memory(size_t bytes) {
  constexpr size_t kAlign = 256;
  make(ring_[ring_part_], kRingPartBytes);
  if (ring_used_ + bytes > kRingPartBytes) {
    mark(ring_[ring_part_]);
    ring_part_ = (ring_part_ + 1) % ring_.size();
    ring_used_ = 0;
    make(ring_[ring_part_], kRingPartBytes);
    wait_for(ring_[ring_part_]);
  }
  std::byte* memory = ring_[ring_part_].memory + ring_used_;
  ring_used_ += (bytes + kAlign - 1) / kAlign * kAlign;
  return memory;
}

void CudaStaging::copy_in(void* device, const void* host, size_t bytes) {
  if (bytes > kSmallBytes) {
    copy_in_large(static_cast<std::byte*>(device), static_cast<const std::byte*>(host), bytes);
    return;
  }
  std::byte* memory = ring_memory(bytes);
  std::memcpy(memory, host, bytes);
  check_cuda(cudaMemcpyAsync(device, memory, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync",
             kToDevice);
}

void CudaStaging::copy_in_large(std::byte* device, const std::byte* host, size_t bytes) {
  for (size_t done = 0; done < bytes; done += kLargeBytes) {
    const size_t count = std::min(kLargeBytes, bytes - done);
    Part& part = large_[next_large_];
    next_large_ = (next_large_ + 1) % large_.size();
    make(part, kLargeBytes);
    wait_for(part);
    fill(part.memory, host + done, count);
    check_cuda(cudaMemcpyAsync(device + done, part.memory, count, cudaMemcpyHostToDevice, stream_),
               "cudaMemcpyAsync", kToDevice);
    mark(part);
  }
}

void CudaStaging::fill(std::byte* to, const std::byte* from, size_t bytes) {
  if (threads_ == nullptr) {
    const unsigned cpus = std::max(1U, std::thread::hardware_concurrency());
    threads_ = std::make_unique<ThreadPool>(static_cast<int>(std::min(cpus, kCopyThreads)));
  }
  threads_->parallel_for(static_cast<int64_t>(bytes), kCopyGrain, [&](int64_t begin, int64_t end, int) {
    std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

void CudaStaging::copy_out(void* host, const void* device, size_t bytes) {
  // Small results (sampled ids, losses) come through page-locked memory: the driver's own way for pageable
  // memory costs more than the copy.
  std::byte* memory = bytes <= kSmallBytes ? ring_memory(bytes) : nullptr;
  void* to = memory != nullptr ? memory : host;
  check_cuda(cudaMemcpyAsync(to, device, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync", kToHost);
  check_cuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", kToHost);
  if (memory != nullptr) std::memcpy(host, memory, bytes);
}

}  // namespace onggi

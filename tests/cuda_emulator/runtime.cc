// The runtime's C interface over ordinary memory.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda_emulator/engine.h"

using Work = std::function<cudaError_t()>;

struct EmulatedCudaGraph {
  std::vector<Work> work;
};
struct EmulatedCudaStream {
  EmulatedCudaGraph* captured = nullptr;
  const bool is_late = false;
  std::deque<Work> waiting = {};  // of a late stream
  uint64_t queued = 0;            // work that came; what waits is the last of it
  cudaError_t error = cudaSuccess;
};
// "Once `stream` has done `position` pieces of work."
struct EmulatedCudaEvent {
  std::shared_ptr<EmulatedCudaStream> stream;  // null: was not recorded
  uint64_t position = 0;
};
struct EmulatedCudaGraphExec {
  EmulatedCudaGraph graph;
};

namespace onggi::emulator {

namespace {

constexpr size_t kDeviceBytes = size_t{4} << 30;
constexpr size_t kHostBytes = size_t{64} << 30;  // of page-locked memory
constexpr size_t kGuardBytes = 512;
constexpr std::align_val_t kAlignment{512};
constexpr std::byte kGuard{0xFF};
constexpr size_t kUnaskedSharedBytes = 48 * 1024;

struct DeviceState {
  std::mutex mutex;
  std::map<std::byte*, size_t> allocations;  // by the first byte of use, without guards
  size_t allocated = 0;
  int captures = 0;  // that go on
  std::map<const void*, size_t> shared_limits;
  std::map<cudaStream_t, std::shared_ptr<EmulatedCudaStream>> streams;
  StreamPace pace = StreamPace::kAtOnce;  // of streams that are made
  std::string failure;
  std::string damage;
};
// Never destroyed: streams that live as long as the program give their memory back at its very end.
DeviceState& state() {
  static DeviceState& state = *new DeviceState;
  return state;
}

bool is_guard(const std::byte* bytes) {
  return std::all_of(bytes, bytes + kGuardBytes, [](std::byte byte) { return byte == kGuard; });
}

// "" or which allocation was written beside.
std::string describe_damage(std::byte* data, size_t bytes) {
  const bool before = is_guard(data - kGuardBytes), after = is_guard(data + bytes);
  if (before && after) return "";
  return std::string("wrote ") + (before ? "behind" : "before") + " device memory of " +
         std::to_string(bytes) + " bytes";
}

void repair(std::byte* data, size_t bytes) {
  std::fill_n(data - kGuardBytes, kGuardBytes, kGuard);
  std::fill_n(data + bytes, kGuardBytes, kGuard);
}

// Does what the stream has put off, up to a position.
void catch_up(EmulatedCudaStream& stream, uint64_t position) {
  while (!stream.waiting.empty() && stream.queued - stream.waiting.size() < position) {
    const Work work = std::move(stream.waiting.front());
    stream.waiting.pop_front();
    if (const cudaError_t status = work(); status != cudaSuccess) stream.error = status;
  }
}

cudaError_t wait_for(EmulatedCudaStream& stream, uint64_t position) {
  catch_up(stream, position);
  return std::exchange(stream.error, cudaSuccess);
}

// Errors stay for who waits for the stream.
void catch_up_everywhere() {
  std::vector<std::shared_ptr<EmulatedCudaStream>> late;
  {
    DeviceState& device = state();
    const std::lock_guard lock(device.mutex);
    for (const auto& [handle, stream] : device.streams)
      if (stream->is_late) late.push_back(stream);
  }
  for (const auto& stream : late) catch_up(*stream, stream->queued);
}

}  // namespace

cudaError_t enqueue(cudaStream_t stream, Work work) {
  if (stream == nullptr) return work();
  if (stream->captured != nullptr) {
    stream->captured->work.push_back(std::move(work));
    return cudaSuccess;
  }
  ++stream->queued;
  if (!stream->is_late) return work();
  stream->waiting.push_back(std::move(work));
  return cudaSuccess;
}

void set_stream_pace(StreamPace pace) { state().pace = pace; }

void set_failure(const char* description) { state().failure = description; }

const char* damaged_memory() {
  DeviceState& device = state();
  const std::lock_guard lock(device.mutex);
  device.damage.clear();
  for (const auto& [data, bytes] : device.allocations) {
    device.damage = describe_damage(data, bytes);
    if (device.damage.empty()) continue;
    repair(data, bytes);  // told once
    break;
  }
  return device.damage.c_str();
}

size_t allowed_shared_memory(const void* kernel) {
  DeviceState& device = state();
  const auto limit = device.shared_limits.find(kernel);
  return limit == device.shared_limits.end() ? kUnaskedSharedBytes : limit->second;
}

}  // namespace onggi::emulator

using namespace onggi::emulator;  // NOLINT: the C names below are global

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
  }
  return "unknown error";
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? state().failure.c_str() : cudaGetErrorName(error);
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::snprintf(properties->name, sizeof properties->name, "emulated GPU");
  properties->major = emulated_hopper() ? 9 : 8;
  properties->minor = 0;
  properties->totalGlobalMem = kDeviceBytes;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  // A few multiprocessors, so that kernels that spread over all of them stay small.
  *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : static_cast<int>(most_shared_memory());
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = kDeviceBytes;
  *free = kDeviceBytes - state().allocated;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  DeviceState& device = state();
  const std::lock_guard lock(device.mutex);
  if (device.captures > 0) return cudaErrorStreamCaptureUnsupported;
  if (bytes > kDeviceBytes - device.allocated) return cudaErrorMemoryAllocation;
  auto* memory = static_cast<std::byte*>(::operator new(bytes + 2 * kGuardBytes, kAlignment));
  std::memset(memory, static_cast<int>(kGuard), bytes + 2 * kGuardBytes);
  *data = memory + kGuardBytes;
  device.allocations[memory + kGuardBytes] = bytes;
  device.allocated += bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  catch_up_everywhere();
  DeviceState& device = state();
  const std::lock_guard lock(device.mutex);
  const auto allocation = device.allocations.find(static_cast<std::byte*>(data));
  if (allocation == device.allocations.end()) return cudaErrorInvalidValue;
  const std::string damage = describe_damage(allocation->first, allocation->second);
  ::operator delete(allocation->first - kGuardBytes, kAlignment);
  device.allocated -= allocation->second;
  device.allocations.erase(allocation);
  if (damage.empty()) return cudaSuccess;
  device.failure = damage;
  return cudaErrorLaunchFailure;
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  if (bytes > kHostBytes) return cudaErrorMemoryAllocation;
  *data = ::operator new(bytes, kAlignment);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void*, size_t bytes, unsigned) {
  return bytes > kHostBytes ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }
cudaError_t cudaFreeHost(void* data) {
  ::operator delete(data, kAlignment);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return enqueue(stream, [=] {
    std::memmove(to, from, bytes);
    return cudaSuccess;
  });
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  return enqueue(stream, [=] {
    std::memset(data, value, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  DeviceState& device = state();
  const std::lock_guard lock(device.mutex);
  auto made =
      std::make_shared<EmulatedCudaStream>(EmulatedCudaStream{.is_late = device.pace == StreamPace::kLate});
  *stream = made.get();
  device.streams.emplace(made.get(), std::move(made));
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  catch_up(*stream, stream->queued);
  DeviceState& device = state();
  const std::lock_guard lock(device.mutex);
  device.streams.erase(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->captured != nullptr) return cudaErrorStreamCaptureUnsupported;
  if (const cudaError_t status = wait_for(*stream, stream->queued); status != cudaSuccess) return status;
  const std::string damage = damaged_memory();
  if (damage.empty()) return cudaSuccess;
  set_failure(damage.c_str());
  return cudaErrorLaunchFailure;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedCudaEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  DeviceState& device = state();
  const std::lock_guard lock(device.mutex);
  *event = {device.streams.at(stream), stream->queued};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return event->stream == nullptr ? cudaSuccess : wait_for(*event->stream, event->position);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->stream == nullptr) return cudaSuccess;
  return enqueue(stream, [point = *event] {
    catch_up(*point.stream, point.position);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->captured != nullptr) return cudaErrorStreamCaptureUnsupported;
  stream->captured = new EmulatedCudaGraph;
  ++state().captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream->captured == nullptr) return cudaErrorInvalidValue;
  *graph = std::exchange(stream->captured, nullptr);
  --state().captures;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new EmulatedCudaGraphExec{*graph};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const auto& work : executable->graph.work)
    if (const cudaError_t status = enqueue(stream, work); status != cudaSuccess) return status;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize)
    state().shared_limits[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

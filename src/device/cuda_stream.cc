#include "device/cuda_stream.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/text.h"
#include "device/cuda_prefetch.h"
#include "device/cuda_staging.h"

namespace onggi {

namespace {

constexpr size_t kAlignment = 256;

size_t rounded_up(size_t bytes) {
  return (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
}

std::string mebibytes(uint64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / 1048576);
}

// The card's compute capability, or a lower one that the environment asks for: so that the kernels for older
// cards can be tried on a newer one.
int assumed_capability(int own) {
  const char* asked = std::getenv("ONGGI_COMPUTE_CAPABILITY");
  const int lower = asked == nullptr ? own : std::atoi(asked);
  return lower >= kMinimumComputeCapability ? std::min(lower, own) : own;
}

// Shared memory that a block may have: CUDA C++ programming guide, technical specifications per compute
// capability.
size_t most_shared_bytes(int capability) {
  const bool is_large = capability >= 90, is_middle = capability == 80 || capability == 87;
  return size_t{is_large ? 227U : is_middle ? 163U : 99U} << 10;
}

int attribute(int device_index, cudaDeviceAttr name) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, name, device_index), "cudaDeviceGetAttribute", "opening the GPU");
  return value;
}

}  // namespace

void check_cuda(cudaError_t status, const char* call, std::string_view where) {
  if (status == cudaSuccess) return;
  // Takes back an error that is not sticky, so that the next call does not report it again.
  cudaGetLastError();
  throw MachineError(text("The GPU reports an error while {}: {} failed: {} ({}).", where, call,
                          cudaGetErrorString(status), cudaGetErrorName(status)));
}

struct CudaStream::Region {
  Region(CudaStream& stream, size_t bytes)
      : stream(stream), data(stream.allocate_device(bytes)), bytes(bytes) {}
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  ~Region() { stream.free_device(data, bytes); }

  CudaStream& stream;
  void* data;
  size_t bytes;
};

class CudaStream::CudaRecording final : public Recording {
 public:
  CudaRecording(cudaGraphExec_t graph, std::shared_ptr<Region> scratch)
      : graph_(graph), scratch_(std::move(scratch)) {}
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;
  ~CudaRecording() override { cudaGraphExecDestroy(graph_); }
  cudaGraphExec_t graph() const { return graph_; }

 private:
  cudaGraphExec_t graph_;
  std::shared_ptr<Region> scratch_;  // its kernels work there
};

CudaStream::CudaStream(int device_index) {
  constexpr const char* kOpening = "opening the GPU";
  check_cuda(cudaSetDevice(device_index), "cudaSetDevice", kOpening);
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device_index), "cudaGetDeviceProperties", kOpening);
  device_ = {DeviceKind::kCuda, device_index, properties.name};
  compute_capability_ = assumed_capability(10 * properties.major + properties.minor);
  if (compute_capability_ < kMinimumComputeCapability) {
    throw MachineError(text(
        "The GPU {} has compute capability {}.{} and Onggi needs {}.{}: set device = \"cpu\".", device_.name,
        properties.major, properties.minor, kMinimumComputeCapability / 10, kMinimumComputeCapability % 10));
  }
  multiprocessors_ = attribute(device_index, cudaDevAttrMultiProcessorCount);
  max_shared_bytes_ =
      std::min(static_cast<size_t>(attribute(device_index, cudaDevAttrMaxSharedMemoryPerBlockOptin)),
               most_shared_bytes(compute_capability_));
  check_cuda(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "cudaStreamCreate", kOpening);
  staging_ = std::make_unique<CudaStaging>(handle_);
}

CudaStream::~CudaStream() {
  // Errors have nobody to go to here; the next stream on the device would report a sticky one.
  cudaSetDevice(device_.index);
  cudaStreamSynchronize(handle_);
  for (auto last = attachment_order_.rbegin(); last != attachment_order_.rend(); ++last)
    attachments_.erase(*last);
  scratch_.reset();
  staging_.reset();
  cudaStreamDestroy(handle_);
}

void CudaStream::activate() const {
  check_cuda(cudaSetDevice(device_.index), "cudaSetDevice", "choosing the GPU");
}

std::string CudaStream::where(std::string_view action, size_t bytes) const {
  std::string where{action};
  if (bytes > 0) where += fmt::format(" ({} bytes)", bytes);
  if (last_op_ != nullptr) where += fmt::format(" after the kernel {}", last_op_);
  return where;
}

void CudaStream::check(cudaError_t status, const char* call, std::string_view action, size_t bytes) const {
  if (status != cudaSuccess) check_cuda(status, call, where(action, bytes));
}

void CudaStream::expect_not_recording(const char* what) const {
  ONGGI_CHECK(!recording_, fmt::format("{} while a recording is made (last kernel: {})", what,
                                       last_op_ == nullptr ? "none" : last_op_));
}

void CudaStream::throw_out_of_memory(size_t bytes) const {
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  throw MachineError(
      text("The memory of {} does not suffice: {} more were asked for, and {} of {} are free (this process "
           "holds {}). "
           "Choose a smaller model, a shorter context or fewer samples at once, or set memory_budget.",
           device_.name, mebibytes(bytes), mebibytes(free), mebibytes(total), mebibytes(allocated_bytes_)));
}

void* CudaStream::allocate_device(size_t bytes) {
  expect_not_recording("device memory was asked for");
  activate();
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw_out_of_memory(bytes);
  }
  check(status, "cudaMalloc", "allocating", bytes);
  allocated_bytes_ += bytes;
  peak_bytes_ = std::max(peak_bytes_, allocated_bytes_);
  return data;
}

// cudaFree waits for the device, so that what was queued before has come past. Errors here are those of
// earlier work: the next call on the stream reports them.
void CudaStream::free_device(void* data, size_t bytes) {
  cudaSetDevice(device_.index);
  cudaFree(data);
  allocated_bytes_ -= bytes;
}

Buffer CudaStream::allocate(size_t bytes) {
  const size_t size = rounded_up(bytes);
  void* data = allocate_device(size);
  allocations_[data] = {size, false};
  return {*this, data, bytes};
}

Buffer CudaStream::allocate_host(size_t bytes) {
  expect_not_recording("page-locked memory was asked for");
  activate();
  const size_t size = rounded_up(bytes);
  void* data = nullptr;
  const cudaError_t status = cudaHostAlloc(&data, size, cudaHostAllocPortable);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw MachineError(
        text("The system gives no {} of page-locked memory: close other programs, or choose a "
             "smaller model or a larger memory_budget.",
             mebibytes(size)));
  }
  check(status, "cudaHostAlloc", "allocating page-locked memory", size);
  allocations_[data] = {size, true};
  return {*this, data, bytes};
}

void CudaStream::free(void* data, size_t) {
  // Not allowed while the stream is captured.
  if (recording_) {
    freed_while_recording_.push_back(data);
  } else {
    release(data);
  }
}

void CudaStream::release(void* data) {
  const auto allocation = allocations_.extract(data);
  if (allocation.empty()) return;
  if (allocation.mapped().on_host) {
    // Unlike cudaFree, cudaFreeHost does not wait for copies that are on their way.
    cudaStreamSynchronize(handle_);
    cudaFreeHost(data);
  } else {
    free_device(data, allocation.mapped().bytes);
  }
}

void* CudaStream::scratch(size_t bytes) {
  const size_t size = rounded_up(bytes);
  if (scratch_ == nullptr || scratch_->bytes < size) {
    expect_not_recording("working memory had to grow");
    scratch_.reset();  // first, so that old and new do not add up; recordings keep theirs
    scratch_ = std::make_shared<Region>(*this, size);
  }
  return scratch_->data;
}

void CudaStream::copy_in(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return;
  expect_not_recording("host memory was copied in");
  activate();
  staging_->copy_in(device, host, bytes);
}

void CudaStream::copy_out(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  expect_not_recording("device memory was copied out");
  activate();
  staging_->copy_out(host, device, bytes);
}

void CudaStream::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  activate();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, handle_), "cudaMemcpyAsync",
        "copying within the GPU", bytes);
}

void CudaStream::fill_zero(void* device, size_t bytes) {
  if (bytes == 0) return;
  activate();
  check(cudaMemsetAsync(device, 0, bytes, handle_), "cudaMemsetAsync", "clearing memory", bytes);
}

void CudaStream::synchronize() {
  expect_not_recording("the stream was waited for");
  activate();
  check(cudaStreamSynchronize(handle_), "cudaStreamSynchronize", "computing");
}

std::unique_ptr<PrefetchBuffer> CudaStream::make_prefetch_buffer(size_t bytes) {
  return std::make_unique<CudaPrefetchBuffer>(*this, bytes);
}

uint64_t CudaStream::free_bytes() const {
  activate();
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo", "asking for the free memory");
  return free;
}

bool CudaStream::begin_recording() {
  expect_not_recording("a recording was begun");
  activate();
  // Thread-local: another stream's thread may allocate meanwhile.
  check(cudaStreamBeginCapture(handle_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture",
        "beginning a recording");
  recording_ = true;
  return true;
}

std::unique_ptr<Stream::Recording> CudaStream::end_recording() {
  ONGGI_CHECK(recording_, "no recording was begun");
  recording_ = false;
  cudaGraph_t graph = nullptr;
  const cudaError_t captured = cudaStreamEndCapture(handle_, &graph);
  for (void* data : std::exchange(freed_while_recording_, {})) release(data);
  check(captured, "cudaStreamEndCapture", "recording");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(made, "cudaGraphInstantiate", "recording");
  return std::make_unique<CudaRecording>(executable, scratch_);
}

void CudaStream::replay(Recording& recording) {
  expect_not_recording("a recording was replayed");
  activate();
  note_op("of a recording");
  check(cudaGraphLaunch(static_cast<CudaRecording&>(recording).graph(), handle_), "cudaGraphLaunch",
        "replaying a recording");
}

void CudaStream::allow_shared_memory(const void* kernel, size_t bytes) {
  size_t& limit = shared_limits_[kernel];
  if (limit >= bytes) return;
  ONGGI_CHECK(bytes <= max_shared_bytes_,
              fmt::format("{} needs {} bytes of shared memory and the GPU has {}",
                          last_op_ == nullptr ? "a kernel" : last_op_, bytes, max_shared_bytes_));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncSetAttribute", "asking for shared memory", bytes);
  limit = bytes;
}

void CudaStream::prefer_shared_memory(const void* kernel) {
  if (!prefers_shared_.insert(kernel).second) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "cudaFuncSetAttribute", "asking for room for shared memory", 0);
}

}  // namespace onggi

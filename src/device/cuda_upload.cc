#include "device/cuda_upload.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "base/error.h"
#include "base/text.h"
#include "base/threads.h"

namespace onggi {
namespace {

constexpr const char* kUploading = "copying a file to the GPU";
// The page cache is read at a multiple of one thread's speed; more than this few add nothing.
constexpr int kMostReaders = 12;
constexpr size_t kAlignment = 256;

// Adds the time of a scope to a sum of seconds.
class Timer {
 public:
  explicit Timer(double& sum) : sum_(sum) {}
  ~Timer() { sum_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count(); }
  Timer(const Timer&) = delete;

 private:
  double& sum_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

size_t largest(const std::vector<ReadAhead::Piece>& pieces) {
  size_t bytes = 0;
  for (const ReadAhead::Piece& piece : pieces) bytes = std::max(bytes, piece.bytes);
  return bytes;
}

}  // namespace

CudaUpload::Pinned::Pinned(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  mapped_bytes_ = size + kHugePage;
  mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped_ == MAP_FAILED)
    throw MachineError(text("The system gives no {} MiB of memory: close other programs.", size >> 20));
  void* aligned = mapped_;
  size_t room = mapped_bytes_;
  std::align(kHugePage, size, aligned, room);
  madvise(aligned, size, MADV_HUGEPAGE);
  const cudaError_t locked = cudaHostRegister(aligned, size, cudaHostRegisterPortable);
  if (locked != cudaSuccess) munmap(mapped_, mapped_bytes_);
  check_cuda(locked, "cudaHostRegister", kUploading);
  memory_ = static_cast<std::byte*>(aligned);
}

CudaUpload::Pinned::~Pinned() {
  cudaHostUnregister(memory_);
  munmap(mapped_, mapped_bytes_);
}

CudaUpload::CudaUpload(CudaStream& stream, std::vector<ReadAhead::Piece> pieces, size_t landed_bytes)
    : stream_((stream.activate(), stream)),
      pinned_bytes_(std::max<size_t>(largest(pieces), 1)),
      pinned_wanted_(std::min(pieces.size(), kPinned)),
      reader_(std::move(pieces), std::min(available_cpus(), kMostReaders)) {
  add_pinned();
  pinning_ = std::jthread([this](const std::stop_token& stop) { add_further_pinned(stop); });
  if (landed_bytes == 0) return;
  const size_t size = (landed_bytes + kAlignment - 1) / kAlignment * kAlignment;
  auto* memory = static_cast<std::byte*>(stream_.scratch(kLandings * size));
  landings_.resize(kLandings);
  for (size_t i = 0; i < kLandings; ++i) landings_[i].memory = memory + i * size;
  // What was queued before may still use the working memory.
  landings_[0].used.record(stream_.handle());
  landings_[0].used.hold_back(copies_.handle());
}

void CudaUpload::add_pinned() {
  Pinned& pinned = pinned_.at(pinned_count_++).emplace(pinned_bytes_);
  reader_.add_buffer(pinned.memory());
}

// Page-locking a mebibyte takes as long as reading several: it goes on beside the first pieces. Where the
// system gives no more, what there is will do.
void CudaUpload::add_further_pinned(const std::stop_token& stop) {
  try {
    stream_.activate();
    while (pinned_count_ < pinned_wanted_ && !stop.stop_requested()) add_pinned();
  } catch (const MachineError&) {
    return;
  }
}

void CudaUpload::give_back_one() {
  {
    const Timer timer(times_.copy);
    on_the_way_.front()->wait();
  }
  on_the_way_.pop_front();
  reader_.give_back();
}

void CudaUpload::copy_next(void* device) {
  stream_.activate();
  // At most half of the memory is on its way, the rest is the readers'.
  while (on_the_way_.size() >= std::clamp<size_t>(reader_.buffers() / 2, 1, kOnTheWay)) give_back_one();
  ReadAhead::Read read;
  {
    const Timer timer(times_.read);
    read = reader_.next();
  }
  const Pinned& pinned = *pinned_[read.buffer];
  check_cuda(cudaMemcpyAsync(device, pinned.memory(), read.bytes, cudaMemcpyHostToDevice, copies_.handle()),
             "cudaMemcpyAsync", kUploading);
  pinned.copied().record(copies_.handle());
  on_the_way_.push_back(&pinned.copied());
}

const std::byte* CudaUpload::land_next() {
  const Landing& landing = landings_.at(next_landing_);
  landing.used.hold_back(copies_.handle());
  copy_next(landing.memory);
  landing.copied.record(copies_.handle());
  landing.copied.hold_back(stream_.handle());
  return landing.memory;
}

void CudaUpload::release_landed() {
  landings_.at(next_landing_).used.record(stream_.handle());
  next_landing_ = (next_landing_ + 1) % kLandings;
}

void CudaUpload::finish() {
  while (!on_the_way_.empty()) give_back_one();
}

}  // namespace onggi

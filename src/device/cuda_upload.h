// Pieces of files on their way to a GPU, in three steps that go on at the same time: threads read them into
// page-locked memory, one stream copies them, and the caller's stream works on those that have come.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <deque>
#include <optional>
#include <thread>
#include <vector>

#include "base/read_ahead.h"
#include "device/cuda_event.h"
#include "device/cuda_stream.h"

namespace onggi {

// Where the time of an upload went, in seconds of the caller's thread.
struct UploadTimes {
  double read = 0;  // waiting for pieces to be read
  double copy = 0;  // waiting for copies
};

// Calls are made by the stream's thread; the pieces come in the order of the list. Every function throws
// MachineError for what the device reports and InputError for a piece that cannot be read.
class CudaUpload {
 public:
  // Reading begins. `landed_bytes`: of the largest piece that goes through land_next(), 0: none does.
  CudaUpload(CudaStream& stream, std::vector<ReadAhead::Piece> pieces, size_t landed_bytes);
  CudaUpload(const CudaUpload&) = delete;
  CudaUpload& operator=(const CudaUpload&) = delete;
  ~CudaUpload() = default;

  // Queues the copy of the next piece to its place on the device. The stream may use it after finish().
  void copy_next(void* device);
  // Copies the next piece to working memory of the device, where what is queued on the stream from now on
  // finds it. release_landed() says that all its uses are queued.
  const std::byte* land_next();
  void release_landed();
  // Waits until all that was copied is on the device.
  void finish();

  const UploadTimes& times() const { return times_; }

  // Copies of this size run at the bus's speed, and queueing one takes much less time than the copy.
  static constexpr size_t kPieceBytes = size_t{4} << 20;

 private:
  // Page-locked memory and the end of the last copy from it. Huge pages, where the system has them, are
  // locked in a fraction of the time that cudaHostAlloc() takes.
  class Pinned {
   public:
    explicit Pinned(size_t bytes);
    Pinned(const Pinned&) = delete;
    ~Pinned();
    std::byte* memory() const { return memory_; }
    const CudaEvent& copied() const { return copied_; }

   private:
    void* mapped_ = nullptr;
    size_t mapped_bytes_ = 0;
    std::byte* memory_ = nullptr;
    CudaEvent copied_;
  };
  struct Landing {
    std::byte* memory = nullptr;
    CudaEvent copied, used;
  };
  static constexpr size_t kPinned = 10, kOnTheWay = 4, kLandings = 4;

  void add_pinned();
  void add_further_pinned(const std::stop_token& stop);
  void give_back_one();

  CudaStream& stream_;
  const size_t pinned_bytes_, pinned_wanted_;
  UploadTimes times_;
  // In this order, since at the end no more memory is taken, then the readers stop, then the copies.
  std::array<std::optional<Pinned>, kPinned> pinned_;
  size_t pinned_count_ = 0;  // the pinning thread's, once it runs
  std::vector<Landing> landings_;
  CudaCopyStream copies_;
  ReadAhead reader_;
  std::jthread pinning_;

  std::deque<const CudaEvent*> on_the_way_;  // copies of pieces that were not given back yet
  size_t next_landing_ = 0;
};

}  // namespace onggi

// Where work is queued and where its memory lies: the CPU at once, a GPU in the order of its stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "device/device.h"

namespace onggi {

class Stream;

// Owner of memory on the device of a stream; movable. Freed after the work that was queued before.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Stream& stream, void* data, size_t bytes) : stream_(&stream), data_(data), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept
      : stream_(other.stream_),
        data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer() { reset(); }

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }
  void reset();

 private:
  Stream* stream_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Memory on the device that is filled from host memory while the stream computes. Calls are made by the
// stream's thread, which waits for nothing. Every function throws MachineError for what the device reports.
class PrefetchBuffer {
 public:
  virtual ~PrefetchBuffer() = default;
  virtual std::byte* data() const = 0;
  // Begins to fill the buffer once the work that the stream has queued so far is past. `host` lies in memory
  // of allocate_host(), which stays as it is until the stream has come past the use().
  virtual void fetch(const void* host, size_t bytes) = 0;
  // What is queued on the stream from now on finds what was fetched last.
  virtual void use() = 0;
};

// A queue of work on one device. Calls are made by one thread at a time. What is queued runs in order; host
// memory that is copied in may be reused when the call returns, host memory that is copied out is there when
// the call returns. Every function throws MachineError for what the device reports.
class Stream {
 public:
  virtual ~Stream() = default;

  virtual const Device& device() const = 0;
  // Uninitialised, aligned to 256. MachineError says how much was asked for and how much is free.
  virtual Buffer allocate(size_t bytes) = 0;
  // Host memory that the device reads and writes directly (page-locked), aligned to 256: for transfers at
  // full speed and for tables of which a kernel reads a few rows.
  virtual Buffer allocate_host(size_t bytes) = 0;
  virtual void copy_in(void* device, const void* host, size_t bytes) = 0;
  virtual void copy_out(void* host, const void* device, size_t bytes) = 0;
  virtual void copy(void* to, const void* from, size_t bytes) = 0;  // within the device
  virtual void fill_zero(void* device, size_t bytes) = 0;
  virtual void synchronize() = 0;
  // Memory of allocate(bytes) with a way of its own to be filled. InternalError on the CPU, where host memory
  // is the device's.
  virtual std::unique_ptr<PrefetchBuffer> make_prefetch_buffer(size_t bytes) = 0;

  // Bytes of the device's memory that allocate() holds now, and the most that it held; allocate_host() is not
  // counted.
  virtual uint64_t allocated_bytes() const = 0;
  virtual uint64_t peak_bytes() const = 0;
  virtual void reset_peak() = 0;

  // Bytes of the device's memory that nobody holds now; 0 on the CPU, whose memory Machine describes.
  virtual uint64_t free_bytes() const = 0;

  // Work recorded once and replayed, for passes whose shapes and addresses repeat (CUDA graphs). A stream
  // that cannot record answers false and the caller queues the work each time.
  //   recording = stream.record([&] { queue work; });
  //   if (recording == nullptr) { queue work; } else { stream.replay(*recording); }
  // Between begin and end only kernels and copies within the device may be queued, and nothing allocated.
  class Recording {
   public:
    virtual ~Recording() = default;
  };
  virtual bool begin_recording() = 0;
  virtual std::unique_ptr<Recording> end_recording() = 0;
  // Records what work() queues; null, without calling it, where the stream cannot record. What work() throws
  // ends the recording and goes on to the caller: the stream can be used again.
  template <typename Work>
  std::unique_ptr<Recording> record(const Work& work) {
    if (!begin_recording()) return nullptr;
    try {
      work();
    } catch (...) {
      drop_recording();
      throw;
    }
    return end_recording();
  }
  virtual void replay(Recording& recording) = 0;

 private:
  friend class Buffer;
  void drop_recording();
  virtual void free(void* data, size_t bytes) = 0;
};

// The CPU: everything is done when a call returns. One for the process, since it holds nothing.
Stream& cpu_stream();

// A stream on the GPU of this index. MachineError where this build has no CUDA backend or the device does not
// answer.
std::unique_ptr<Stream> make_cuda_stream(int device_index);

}  // namespace onggi

#include "device/stream.h"

#include <cstring>
#include <new>

#include "base/error.h"

namespace onggi {
namespace {

constexpr std::align_val_t kAlignment{256};

class CpuStream final : public Stream {
 public:
  const Device& device() const override { return device_; }
  Buffer allocate(size_t bytes) override { return {*this, ::operator new(bytes, kAlignment), bytes}; }
  Buffer allocate_host(size_t bytes) override { return allocate(bytes); }
  void copy_in(void* device, const void* host, size_t bytes) override { copy(device, host, bytes); }
  void copy_out(void* host, const void* device, size_t bytes) override { copy(host, device, bytes); }
  void copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from, bytes);
  }
  void fill_zero(void* device, size_t bytes) override {
    if (bytes > 0) std::memset(device, 0, bytes);
  }
  void synchronize() override {}
  std::unique_ptr<PrefetchBuffer> make_prefetch_buffer(size_t) override {
    throw_internal_error("the CPU reads host memory where it lies", __FILE__, __LINE__, "");
  }
  // The process's resident memory says more than a count here would.
  uint64_t allocated_bytes() const override { return 0; }
  uint64_t peak_bytes() const override { return 0; }
  void reset_peak() override {}
  uint64_t free_bytes() const override { return 0; }
  bool begin_recording() override { return false; }
  std::unique_ptr<Recording> end_recording() override {
    throw_internal_error("the CPU records nothing", __FILE__, __LINE__, "");
  }
  void replay(Recording&) override {
    throw_internal_error("the CPU records nothing", __FILE__, __LINE__, "");
  }

 private:
  void free(void* data, size_t) override { ::operator delete(data, kAlignment); }

  Device device_;
};

}  // namespace

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    reset();
    stream_ = other.stream_;
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void Buffer::reset() {
  if (data_ != nullptr) stream_->free(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

void Stream::drop_recording() {
  try {
    end_recording();
  } catch (const Error&) {
    // An error of half a recording; the one that cut it short matters.
  }
}

Stream& cpu_stream() {
  static CpuStream stream;
  return stream;
}

}  // namespace onggi

// Arrays in device memory for tests.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "device/stream.h"

namespace onggi::testing_cuda {

// The device of all tests of the program: GPU 0, or the emulated one.
inline Stream& stream() {
  static const std::unique_ptr<Stream> stream = make_cuda_stream(0);
  return *stream;
}

// An array between guards, which are looked at in the end: what a kernel writes beside its output shows.
// Without values it holds bytes of 0xFF: NaN, so that what a kernel leaves out shows too.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    stream().copy_in(data(), values.data(), values.size() * sizeof(T));
  }
  explicit DeviceArray(size_t count)
      : count_(count), buffer_(stream().allocate(count * sizeof(T) + 2 * kGuardBytes)) {
    const std::vector<uint8_t> guarded(buffer_.bytes(), kFill);
    stream().copy_in(buffer_.data(), guarded.data(), guarded.size());
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    EXPECT_TRUE(intact()) << "a kernel wrote outside of an array of " << count_ << " elements";
  }

  // Aligned to 256.
  T* data() const { return reinterpret_cast<T*>(buffer_.as<uint8_t>() + kGuardBytes); }
  size_t size() const { return count_; }
  std::vector<T> values() const {
    std::vector<T> values(count_);
    stream().copy_out(values.data(), data(), count_ * sizeof(T));
    return values;
  }

 private:
  static constexpr size_t kGuardBytes = 256;
  static constexpr uint8_t kFill = 0xFF;
  bool intact() const {
    std::vector<uint8_t> bytes(buffer_.bytes());
    stream().copy_out(bytes.data(), buffer_.data(), bytes.size());
    for (size_t i = 0; i < kGuardBytes; ++i)
      if (bytes[i] != kFill || bytes[bytes.size() - 1 - i] != kFill) return false;
    return true;
  }

  size_t count_;
  Buffer buffer_;
};

}  // namespace onggi::testing_cuda

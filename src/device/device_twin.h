// A host array and its twin on a device: what files are read from and written to, and what kernels work on.
#pragma once

#include <vector>

#include "device/stream.h"

namespace onggi {

// The device's side of a std::vector<float> that the caller keeps. On the CPU it is that vector itself. Where
// the two differ, `upload` and `download` say who has the newer values.
class DeviceTwin {
 public:
  // Puts the values on the stream's device; without this call the host array is used. The stream outlives
  // the twin.
  void place(Stream& stream, const std::vector<float>& host) {
    if (stream.device().kind == DeviceKind::kCpu) return;
    stream_ = &stream;
    buffer_ = stream.allocate(host.size() * sizeof(float));
    upload(host);
  }
  float* data(std::vector<float>& host) const {
    return stream_ == nullptr ? host.data() : buffer_.as<float>();
  }
  const float* data(const std::vector<float>& host) const {
    return stream_ == nullptr ? host.data() : buffer_.as<float>();
  }
  void upload(const std::vector<float>& host) {
    if (stream_ != nullptr) stream_->copy_in(buffer_.data(), host.data(), host.size() * sizeof(float));
  }
  void download(std::vector<float>& host) const {
    if (stream_ != nullptr) stream_->copy_out(host.data(), buffer_.data(), host.size() * sizeof(float));
  }

 private:
  Stream* stream_ = nullptr;
  Buffer buffer_;
};

}  // namespace onggi

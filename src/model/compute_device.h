// The device that a process computes on: its stream, its kernels, and where models go.
#pragma once

#include <memory>

#include "device/machine.h"
#include "model/model.h"

namespace onggi {

// Outlives the models, caches and buffers that lie on it.
class ComputeDevice {
 public:
  // Opens a device that select_device chose. Throws MachineError where it does not answer.
  explicit ComputeDevice(const Device& device);

  const Device& device() const { return stream_->device(); }
  bool is_gpu() const { return device().kind == DeviceKind::kCuda; }
  Stream& stream() { return *stream_; }
  const OpTable& ops() const { return *ops_; }
  Placement placement() { return {*ops_, *stream_}; }
  // Bytes of its memory (for the CPU, of the machine's) that this process may use in all, with what it holds
  // already.
  uint64_t usable_bytes(const Machine& machine) const;

 private:
  std::unique_ptr<Stream> owned_;
  Stream* stream_;
  const OpTable* ops_;
};

// Opens the device that the configuration or the command line asks for ("auto", "cpu", "cuda").
ComputeDevice open_device(std::string_view requested, const Machine& machine);

// What kernels of one thread of work need: working memory, and the arithmetic.
class ComputeSession {
 public:
  ComputeSession(ComputeDevice& device, ThreadPool& threads, Precision precision)
      : scratch_(threads.size()), compute_{device.ops(), {threads, scratch_, device.stream()}, precision} {}
  ComputeSession(const ComputeSession&) = delete;
  const Compute& compute() const { return compute_; }

 private:
  Scratch scratch_;
  Compute compute_;
};

}  // namespace onggi

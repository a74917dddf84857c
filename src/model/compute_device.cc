#include "model/compute_device.h"

#include <algorithm>

namespace onggi {

ComputeDevice::ComputeDevice(const Device& device)
    : owned_(device.kind == DeviceKind::kCuda ? make_cuda_stream(device.index) : nullptr),
      stream_(owned_ ? owned_.get() : &cpu_stream()),
      ops_(owned_ ? &cuda_ops() : &cpu_ops()) {}

uint64_t ComputeDevice::usable_bytes(const Machine& machine) const {
  if (!is_gpu()) return machine.memory.available;
  // Kernels are loaded when they are first used, and recordings of passes take memory besides what streams
  // allocate.
  constexpr uint64_t kForTheDriver = uint64_t{384} << 20;
  const uint64_t free = stream_->free_bytes();
  return stream_->allocated_bytes() + free - std::min(free, kForTheDriver);
}

ComputeDevice open_device(std::string_view requested, const Machine& machine) {
  return ComputeDevice(select_device(requested, machine).device);
}

}  // namespace onggi

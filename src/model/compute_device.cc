#include "model/compute_device.h"

namespace onggi {

ComputeDevice::ComputeDevice(const Device& device)
    : owned_(device.kind == DeviceKind::kCuda ? make_cuda_stream(device.index) : nullptr),
      stream_(owned_ ? owned_.get() : &cpu_stream()),
      ops_(owned_ ? &cuda_ops() : &cpu_ops()) {}

uint64_t ComputeDevice::free_bytes(const Machine& machine) const {
  if (!is_gpu()) return machine.memory.available;
  const GpuDescription& gpu = machine.gpu.gpus.at(static_cast<size_t>(device().index));
  return gpu.memory_free > 0 ? gpu.memory_free : gpu.memory_total;
}

ComputeDevice open_device(std::string_view requested, const Machine& machine) {
  return ComputeDevice(select_device(requested, machine).device);
}

}  // namespace onggi

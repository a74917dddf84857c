#include "device/device.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace onggi {

namespace {

Device cpu_of(const Machine& machine) {
  const std::string& model = machine.cpu.model;
  return {DeviceKind::kCpu, 0, model.empty() ? "CPU" : "CPU (" + model + ")"};
}

// Why no GPU of this machine can be used, or "" and the index of the one that has the most free memory.
struct GpuChoice {
  int index = -1;
  std::string obstacle;
};

GpuChoice choose_gpu(const GpuSystem& system) {
  if (system.gpus.empty()) return {-1, system.problem};
  const int built_major = built_cuda_version() / 1000 * 1000;
  if (const int needed = std::max(kMinimumCudaVersion, built_major); system.cuda_version < needed) {
    return {-1, text("the driver supports CUDA {}.{} and Onggi needs {}.{}: install a newer driver",
                     system.cuda_version / 1000, system.cuda_version % 1000 / 10, needed / 1000,
                     needed % 1000 / 10)};
  }
  GpuChoice choice;
  for (int i = 0; i < static_cast<int>(system.gpus.size()); ++i) {
    const GpuDescription& gpu = system.gpus[static_cast<size_t>(i)];
    if (gpu.compute_capability < kMinimumComputeCapability) continue;
    if (choice.index < 0 || gpu.memory_free > system.gpus[static_cast<size_t>(choice.index)].memory_free) {
      choice.index = i;
    }
  }
  if (choice.index < 0) {
    choice.obstacle = text("no GPU has compute capability {}.{} or higher", kMinimumComputeCapability / 10,
                           kMinimumComputeCapability % 10);
  }
  return choice;
}

}  // namespace

DeviceSelection select_device(std::string_view requested, const Machine& machine) {
  if (requested == "cpu") return {cpu_of(machine), text("the configuration asks for the CPU")};
  if (requested != "auto" && requested != "cuda") {
    throw UsageError(
        text("device = \"{}\" is not one of \"auto\", \"cpu\", \"cuda\"", std::string(requested)));
  }
  GpuChoice choice = choose_gpu(machine.gpu);
  if (choice.index >= 0 && built_cuda_version() == 0) {
    choice = {-1, text("this build of Onggi has no CUDA kernels")};
  }
  if (choice.index >= 0) {
    const GpuDescription& gpu = machine.gpu.gpus[static_cast<size_t>(choice.index)];
    return {{DeviceKind::kCuda, choice.index, gpu.name}, text("a usable GPU was found: {}", gpu.name)};
  }
  if (requested == "cuda") {
    throw MachineError(
        text("device = \"cuda\" cannot be had: {}; set device = \"auto\" or \"cpu\" to compute on the CPU",
             choice.obstacle));
  }
  return {cpu_of(machine), text("the CPU computes, since {}", choice.obstacle)};
}

}  // namespace onggi

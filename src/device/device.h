// Which device computes.
#pragma once

#include <string>
#include <string_view>

#include "device/machine.h"

namespace onggi {

enum class DeviceKind { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;     // among the GPUs; 0 for the CPU
  std::string name;  // "CPU (AMD EPYC ...)", "NVIDIA H100 ..."
};

struct DeviceSelection {
  Device device;
  std::string reason;  // one sentence for people: why this one
};

// `requested` is "auto", "cpu" or "cuda". "auto" takes a usable GPU, else the CPU and says why. Throws
// MachineError where "cuda" is asked for and there is none that this build can use; UsageError for another
// word.
DeviceSelection select_device(std::string_view requested, const Machine& machine);

// The CUDA toolkit that this build's kernels were compiled with, as the driver numbers it; 0: there are none.
// Answered by the source file that the build chose. A driver runs what a toolkit of its own major version, or
// an older one, compiled.
int built_cuda_version();

// What Onggi needs of a GPU: the seed's CUDA 12.4, and bf16 arithmetic (compute capability 8.0).
inline constexpr int kMinimumCudaVersion = 12040;     // as the driver gives it: 1000 * major + 10 * minor
inline constexpr int kMinimumComputeCapability = 80;  // 10 * major + minor

}  // namespace onggi

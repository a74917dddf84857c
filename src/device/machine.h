// What this machine has: CPU, memory, swap, GPUs. Read once and passed on; nothing here changes the machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace onggi {

struct CpuDescription {
  std::string model;       // "" where the kernel does not say
  int physical_cores = 0;  // 0: not known
  int logical_cpus = 0;
  int usable_cpus = 0;  // affinity and cgroup quota respected
  std::vector<std::string>
      instruction_sets;  // those that Onggi's kernels care for: "AVX2", "AVX-512 VNNI", ...
};

// Bytes. A container's limit counts as the machine's memory.
struct MemoryDescription {
  uint64_t total = 0;
  uint64_t available = 0;
  uint64_t swap_total = 0;
  uint64_t swap_free = 0;
};

struct GpuDescription {
  std::string name;
  uint64_t memory_total = 0;   // bytes
  uint64_t memory_free = 0;    // bytes; 0 where NVML does not answer
  int compute_capability = 0;  // 10 * major + minor
};

struct GpuSystem {
  std::vector<GpuDescription> gpus;  // in CUDA's order
  std::string driver_version;        // "" where NVML does not answer
  int cuda_version = 0;              // highest that the driver supports: 1000 * major + 10 * minor
  std::string problem;               // why there are none: no driver, or the driver's own complaint
};

struct Machine {
  CpuDescription cpu;
  MemoryDescription memory;
  GpuSystem gpu;
};

Machine describe_machine();

// Where the driver's libraries are; tests give others.
struct GpuLibraries {
  std::string cuda = "libcuda.so.1";
  std::string nvml = "libnvidia-ml.so.1";
};
// Loads the driver's libraries at run time: nothing of CUDA is needed to build or to run without a GPU. Never
// throws.
GpuSystem describe_gpus(const GpuLibraries& libraries = {});

// The parsers behind describe_machine(), of the texts of /proc/cpuinfo and /proc/meminfo.
CpuDescription parse_cpuinfo(std::string_view text);
MemoryDescription parse_meminfo(std::string_view text);
// A container's memory limit: the first of memory.max (cgroup 2) or memory.limit_in_bytes (cgroup 1) that
// sets one.
struct MemoryLimit {
  uint64_t limit = 0;  // bytes
  uint64_t used = 0;   // bytes
};
MemoryDescription apply_limit(MemoryDescription memory, const std::optional<MemoryLimit>& limit);

}  // namespace onggi

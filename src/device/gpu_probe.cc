// Asks the NVIDIA driver what GPUs there are, through its two libraries, loaded at run time. The few
// declarations that are needed are written here after the CUDA driver API and NVML manuals, so that no CUDA
// header is.
#include <dlfcn.h>

#include <array>
#include <cstdlib>

#include "base/text.h"
#include "device/machine.h"

namespace onggi {

namespace {

using CudaDevice = int;
constexpr int kSuccess = 0;                  // CUDA_SUCCESS, NVML_SUCCESS
constexpr int kNoDevice = 100;               // CUDA_ERROR_NO_DEVICE
constexpr int kComputeCapabilityMajor = 75;  // CUdevice_attribute
constexpr int kComputeCapabilityMinor = 76;
constexpr size_t kNameSize = 256;

struct NvmlMemory {  // nvmlMemory_t
  unsigned long long total, free, used;
};

// A shared library, closed at the end.
class Library {
 public:
  explicit Library(const std::string& name)
      : handle_(dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)) {}
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    if (handle_ != nullptr) dlclose(handle_);
  }

  bool loaded() const { return handle_ != nullptr; }

  // Calls a C function of the library; -1 where it has none of that name.
  template <typename... Parameters>
  int call(const char* function, Parameters... parameters) const {
    void* symbol = handle_ == nullptr ? nullptr : dlsym(handle_, function);
    if (symbol == nullptr) return -1;
    return reinterpret_cast<int (*)(Parameters...)>(symbol)(parameters...);
  }

 private:
  void* handle_;
};

// NVML knows what CUDA does not tell without taking memory itself: the free memory and the driver's version.
class Nvml {
 public:
  explicit Nvml(const std::string& name) : library_(name) {
    ready_ = library_.call("nvmlInit_v2") == kSuccess;
  }
  ~Nvml() {
    if (ready_) library_.call("nvmlShutdown");
  }

  std::string driver_version() const {
    std::array<char, kNameSize> version{};
    const unsigned size = version.size() - 1;
    if (!ready_ || library_.call("nvmlSystemGetDriverVersion", version.data(), size) != kSuccess) return "";
    return version.data();
  }

  uint64_t free_memory(const char* pci_bus_id) const {
    void* device = nullptr;
    if (!ready_ || library_.call("nvmlDeviceGetHandleByPciBusId_v2", pci_bus_id, &device) != kSuccess)
      return 0;
    NvmlMemory memory{};
    if (library_.call("nvmlDeviceGetMemoryInfo", device, &memory) != kSuccess) return 0;
    return memory.free;
  }

 private:
  Library library_;
  bool ready_ = false;
};

GpuDescription describe_gpu(const Library& cuda, const Nvml& nvml, CudaDevice device) {
  GpuDescription gpu;
  std::array<char, kNameSize> name{}, bus_id{};
  const int size = kNameSize - 1;
  if (cuda.call("cuDeviceGetName", name.data(), size, device) == kSuccess) gpu.name = name.data();
  size_t total = 0;
  if (cuda.call("cuDeviceTotalMem_v2", &total, device) == kSuccess) gpu.memory_total = total;
  int major = 0, minor = 0;
  cuda.call("cuDeviceGetAttribute", &major, kComputeCapabilityMajor, device);
  cuda.call("cuDeviceGetAttribute", &minor, kComputeCapabilityMinor, device);
  gpu.compute_capability = 10 * major + minor;
  if (cuda.call("cuDeviceGetPCIBusId", bus_id.data(), size, device) == kSuccess) {
    gpu.memory_free = nvml.free_memory(bus_id.data());
  }
  return gpu;
}

std::string no_gpu() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible == nullptr) return text("the NVIDIA driver shows no GPU");
  return text("CUDA_VISIBLE_DEVICES is \"{}\", which leaves no GPU to be seen (unset it, or name one)",
              visible);
}

}  // namespace

GpuSystem describe_gpus(const GpuLibraries& libraries) {
  GpuSystem system;
  const Library cuda(libraries.cuda);
  if (!cuda.loaded()) {
    system.problem = text("no NVIDIA driver is installed");
    return system;
  }
  cuda.call("cuDriverGetVersion", &system.cuda_version);
  const Nvml nvml(libraries.nvml);
  system.driver_version = nvml.driver_version();
  if (const int status = cuda.call("cuInit", 0U); status != kSuccess) {
    system.problem =
        status == kNoDevice ? no_gpu() : text("the NVIDIA driver does not start (cuInit returns {})", status);
    return system;
  }
  int count = 0;
  cuda.call("cuDeviceGetCount", &count);
  for (int index = 0; index < count; ++index) {
    CudaDevice device = 0;
    if (cuda.call("cuDeviceGet", &device, index) == kSuccess) {
      system.gpus.push_back(describe_gpu(cuda, nvml, device));
    }
  }
  if (system.gpus.empty()) system.problem = no_gpu();
  return system;
}

}  // namespace onggi

// A stand-in for libcuda.so.1 and libnvidia-ml.so.1 with two GPUs, numbered differently by the two libraries,
// as real ones do. ONGGI_FAKE_CUDA_VERSION in the environment sets the driver's CUDA version,
// ONGGI_FAKE_CUDA_INIT what cuInit returns.
#include <cstdlib>
#include <cstring>

namespace {

constexpr const char* kBusIds[] = {"0000:0A:00.0", "0000:0B:00.0"};

}  // namespace

extern "C" {

int cuInit(unsigned) {
  const char* status = std::getenv("ONGGI_FAKE_CUDA_INIT");
  return status == nullptr ? 0 : std::atoi(status);
}
int cuDriverGetVersion(int* version) {
  const char* given = std::getenv("ONGGI_FAKE_CUDA_VERSION");
  *version = given == nullptr ? 12080 : std::atoi(given);
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = 2;
  return 0;
}
int cuDeviceGet(int* device, int index) {
  *device = index;
  return 0;
}
int cuDeviceGetName(char* name, int size, int device) {
  std::strncpy(name, device == 0 ? "Old GPU" : "New GPU", static_cast<size_t>(size));
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) {
  *bytes = device == 0 ? 8000 : 24000;
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? (device == 0 ? 7 : 9) : (device == 0 ? 5 : 0);
  return attribute == 75 || attribute == 76 ? 0 : 1;
}
int cuDeviceGetPCIBusId(char* id, int size, int device) {
  std::strncpy(id, kBusIds[device], static_cast<size_t>(size));
  return 0;
}

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
int nvmlSystemGetDriverVersion(char* version, unsigned size) {
  std::strncpy(version, "570.1", size);
  return 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* id, void** device) {
  static int handles[2];
  for (int i = 0; i < 2; ++i) {
    if (std::strcmp(id, kBusIds[i]) == 0) return *device = &handles[1 - i], 0;
  }
  return 6;
}
int nvmlDeviceGetMemoryInfo(void* device, unsigned long long* memory) {
  void* first = nullptr;
  nvmlDeviceGetHandleByPciBusId_v2(kBusIds[0], &first);
  memory[0] = 0, memory[1] = device == first ? 7000 : 23000, memory[2] = 0;
  return 0;
}
}

#include "tests/devices.h"

namespace onggi {

const std::vector<TestDevice>& test_devices() {
  static const std::vector<TestDevice> devices = {
      {"ref", &ref_ops(), &cpu_stream(), TestDevice::Pace::kSlow},
      {"cpu", &cpu_ops(), &cpu_stream(), TestDevice::Pace::kFast}};
  return devices;
}

}  // namespace onggi

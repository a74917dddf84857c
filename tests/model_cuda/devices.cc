#include "tests/devices.h"

#include <cstdio>

#include "base/error.h"

namespace onggi {

const std::vector<TestDevice>& test_devices() {
  static const std::unique_ptr<Stream> stream = [] {
    try {
      return make_cuda_stream(0);
    } catch (const MachineError& error) {
      std::printf("no GPU, so nothing is tested: %s\n", error.what());
      return std::unique_ptr<Stream>();
    }
  }();
  static const std::vector<TestDevice> devices =
      stream ? std::vector<TestDevice>{{"cuda", &cuda_ops(), stream.get(), TestDevice::Pace::ONGGI_TEST_PACE}}
             : std::vector<TestDevice>{};
  return devices;
}

}  // namespace onggi

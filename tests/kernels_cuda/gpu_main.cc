// Runs the tests of the kernels on a card, or says why it cannot (exit code 77: skipped).
#include <gtest/gtest.h>

#include <cstdio>

#include "base/error.h"
#include "device/device.h"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  try {
    const onggi::Device device = onggi::select_device("cuda", onggi::describe_machine()).device;
    std::printf("The kernels run on %s.\n", device.name.c_str());
  } catch (const onggi::MachineError& error) {
    std::printf("Skipped: %s\n", error.what());
    constexpr int kSkipped = 77;
    return kSkipped;
  }
  return RUN_ALL_TESTS();
}

// The devices whose kernels a test program runs on. Each program defines them: the CPU's programs the oracle
// and the CPU, the GPU's programs the GPU (or the emulated one).
#pragma once

#include <string>
#include <vector>

#include "base/threads.h"
#include "kernels/table.h"
#include "model/model.h"

namespace onggi {

struct TestDevice {
  std::string name;
  const OpTable* ops;
  Stream* stream;
  enum class Pace { kFast, kSlow } pace = Pace::kFast;  // kSlow: only the smallest cases
};
// Empty where there is no such device on this machine.
const std::vector<TestDevice>& test_devices();

// What computes on a device, with threads of its own.
struct TestCompute {
  TestCompute(const TestDevice& device, Precision precision)
      : compute{*device.ops, {threads, scratch, *device.stream}, precision} {}
  ThreadPool threads{2};
  Scratch scratch{2};
  Compute compute;
  Placement placement() const { return {compute.ops, compute.stream()}; }
};

}  // namespace onggi

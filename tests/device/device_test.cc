#include "device/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/sysinfo.h>

#include <fstream>
#include <thread>

#include "base/error.h"
#include "device/machine.h"

namespace onggi {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const GpuLibraries kFake{FAKE_CUDA_DRIVER, FAKE_CUDA_DRIVER};

Machine machine_with_fake_gpus() {
  Machine machine;
  machine.cpu.model = "Test CPU";
  machine.gpu = describe_gpus(kFake);
  return machine;
}

std::string machine_error(std::string_view requested, const Machine& machine) {
  try {
    select_device(requested, machine);
  } catch (const MachineError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no MachineError";
  return "";
}

TEST(Machine, ReadsCpuinfo) {
  const CpuDescription cpu = parse_cpuinfo(
      "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\nphysical id\t: 0\ncore id\t\t: 0\n"
      "flags\t\t: fpu avx avx2 fma avx512f avx512_vnni avx512_bf16 amx_bf16\n\n"
      "processor\t: 1\nmodel name\t: Some CPU @ 2GHz\nphysical id\t: 0\ncore id\t\t: 0\n\n"
      "processor\t: 2\nphysical id\t: 1\ncore id\t\t: 0\n");
  EXPECT_EQ(cpu.model, "Some CPU @ 2GHz");
  EXPECT_EQ(cpu.logical_cpus, 3);
  EXPECT_EQ(cpu.physical_cores, 2);
  EXPECT_THAT(cpu.instruction_sets,
              ElementsAre("AVX2", "FMA", "AVX-512F", "AVX-512 VNNI", "AVX-512 BF16", "AMX BF16"));
  EXPECT_EQ(parse_cpuinfo("").logical_cpus, 0);
  EXPECT_EQ(parse_cpuinfo("flags: avx2x xavx2").instruction_sets.size(), 0u);
}

TEST(Machine, ReadsMeminfoAndContainerLimits) {
  const MemoryDescription memory = parse_meminfo(
      "MemTotal:       16000 kB\nMemFree: 100 kB\nMemAvailable:   8000 kB\nSwapTotal: 4000 kB\nSwapFree: "
      "3000 kB\n");
  EXPECT_EQ(memory.total, 16000u * 1024);
  EXPECT_EQ(memory.available, 8000u * 1024);
  EXPECT_EQ(memory.swap_total, 4000u * 1024);
  EXPECT_EQ(memory.swap_free, 3000u * 1024);
  const MemoryDescription limited = apply_limit(memory, MemoryLimit{5000, 1000});
  EXPECT_EQ(limited.total, 5000u);
  EXPECT_EQ(limited.available, 4000u);
  EXPECT_EQ(apply_limit(memory, MemoryLimit{5000, 6000}).available, 0u);
  EXPECT_EQ(apply_limit(memory, MemoryLimit{uint64_t{1} << 62, 0}).total, memory.total);
  EXPECT_EQ(apply_limit(memory, std::nullopt).available, memory.available);
}

TEST(Machine, DescribesThisOne) {
  const Machine machine = describe_machine();
  EXPECT_GE(machine.cpu.usable_cpus, 1);
  EXPECT_GE(machine.cpu.logical_cpus, machine.cpu.usable_cpus);
  struct sysinfo info {};
  ASSERT_EQ(sysinfo(&info), 0);
  EXPECT_LE(machine.memory.total, uint64_t{info.totalram} * info.mem_unit);
  EXPECT_GT(machine.memory.total, uint64_t{64} << 20);
  EXPECT_LE(machine.memory.available, machine.memory.total);
  EXPECT_EQ(machine.memory.swap_total, uint64_t{info.totalswap} * info.mem_unit);
}

TEST(Gpus, WithoutADriverThereAreNone) {
  const GpuSystem system = describe_gpus({"libonggi-no-such.so", "libonggi-no-such.so"});
  EXPECT_TRUE(system.gpus.empty());
  EXPECT_THAT(system.problem, HasSubstr("no NVIDIA driver"));
}

TEST(Gpus, AreDescribedInCudasOrder) {
  const GpuSystem system = describe_gpus(kFake);
  EXPECT_EQ(system.driver_version, "570.1");
  EXPECT_EQ(system.cuda_version, 12080);
  ASSERT_EQ(system.gpus.size(), 2u);
  EXPECT_EQ(system.gpus[0].name, "Old GPU");
  EXPECT_EQ(system.gpus[0].memory_free, 7000u);
  EXPECT_EQ(system.gpus[0].compute_capability, 75);
  EXPECT_EQ(system.gpus[1].name, "New GPU");
  EXPECT_EQ(system.gpus[1].memory_total, 24000u);
  EXPECT_EQ(system.gpus[1].memory_free, 23000u);
  EXPECT_EQ(system.gpus[1].compute_capability, 90);
}

TEST(Gpus, WithoutNvmlTheRestIsStillThere) {
  const GpuSystem system = describe_gpus({FAKE_CUDA_DRIVER, "libonggi-no-such.so"});
  ASSERT_EQ(system.gpus.size(), 2u);
  EXPECT_EQ(system.driver_version, "");
  EXPECT_EQ(system.gpus[1].memory_free, 0u);
}

TEST(Gpus, ADriverThatDoesNotStartIsAProblem) {
  setenv("ONGGI_FAKE_CUDA_INIT", "999", 1);
  const GpuSystem system = describe_gpus(kFake);
  unsetenv("ONGGI_FAKE_CUDA_INIT");
  EXPECT_TRUE(system.gpus.empty());
  EXPECT_THAT(system.problem, HasSubstr("999"));
}

// As the driver answers where CUDA_VISIBLE_DEVICES hides all GPUs, or there are none.
TEST(Gpus, HiddenOnesAreAProblemThatIsNamed) {
  setenv("ONGGI_FAKE_CUDA_INIT", "100", 1);
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  const GpuSystem hidden = describe_gpus(kFake);
  unsetenv("CUDA_VISIBLE_DEVICES");
  const GpuSystem none = describe_gpus(kFake);
  unsetenv("ONGGI_FAKE_CUDA_INIT");
  EXPECT_TRUE(hidden.gpus.empty());
  EXPECT_THAT(hidden.problem, HasSubstr("CUDA_VISIBLE_DEVICES is \"\""));
  EXPECT_EQ(none.problem, "the NVIDIA driver shows no GPU");
}

TEST(SelectDevice, WithoutAGpuAutoIsTheCpuAndSaysWhy) {
  Machine machine;
  machine.cpu.model = "Test CPU";
  machine.gpu.problem = "no NVIDIA driver is installed";
  const DeviceSelection selection = select_device("auto", machine);
  EXPECT_EQ(selection.device.kind, DeviceKind::kCpu);
  EXPECT_EQ(selection.device.name, "CPU (Test CPU)");
  EXPECT_THAT(selection.reason, HasSubstr("no NVIDIA driver"));
  EXPECT_EQ(select_device("cpu", machine).device.kind, DeviceKind::kCpu);
  EXPECT_THAT(machine_error("cuda", machine), HasSubstr("no NVIDIA driver"));
  EXPECT_THROW(select_device("gpu", machine), UsageError);
}

TEST(SelectDevice, AnOldDriverIsNamed) {
  setenv("ONGGI_FAKE_CUDA_VERSION", "12020", 1);
  const Machine machine = machine_with_fake_gpus();
  unsetenv("ONGGI_FAKE_CUDA_VERSION");
  EXPECT_THAT(machine_error("cuda", machine), HasSubstr("CUDA 12.2 and Onggi needs 12.4"));
}

TEST(SelectDevice, TakesTheGpuWhereTheBuildCanUseIt) {
  const Machine machine = machine_with_fake_gpus();
  if (built_cuda_version() > 0) {
    const DeviceSelection selection = select_device("auto", machine);
    EXPECT_EQ(selection.device.kind, DeviceKind::kCuda);
    EXPECT_EQ(selection.device.index, 1);  // the old one has too low a compute capability
  } else {
    EXPECT_THAT(select_device("auto", machine).reason, HasSubstr("no CUDA kernels"));
    EXPECT_THAT(machine_error("cuda", machine), HasSubstr("no CUDA kernels"));
  }
}

}  // namespace
}  // namespace onggi

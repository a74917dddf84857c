#include "device/machine.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "base/threads.h"

namespace onggi {

namespace {

// What the kernel calls an instruction set, and what people call it. The kernel lists only what it lets
// programs use.
struct InstructionSetName {
  std::string_view kernel;
  std::string_view people;
};
constexpr std::array<InstructionSetName, 14> kInstructionSets{{{"avx2", "AVX2"},
                                                               {"fma", "FMA"},
                                                               {"f16c", "F16C"},
                                                               {"avx_vnni", "AVX-VNNI"},
                                                               {"avx512f", "AVX-512F"},
                                                               {"avx512bw", "AVX-512BW"},
                                                               {"avx512_vnni", "AVX-512 VNNI"},
                                                               {"avx512_bf16", "AVX-512 BF16"},
                                                               {"avx512_fp16", "AVX-512 FP16"},
                                                               {"amx_bf16", "AMX BF16"},
                                                               {"amx_int8", "AMX INT8"},
                                                               {"asimd", "NEON"},
                                                               {"bf16", "ARM BF16"},
                                                               {"sve", "SVE"}}};

std::string_view trimmed(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

// Calls use(name, value) for each "name : value" line.
template <typename Use>
void for_each_field(std::string_view text, const Use& use) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    if (const size_t colon = line.find(':'); colon != std::string_view::npos) {
      use(trimmed(line.substr(0, colon)), trimmed(line.substr(colon + 1)));
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

std::set<std::string_view> words_of(std::string_view text) {
  std::set<std::string_view> words;
  while (!(text = trimmed(text)).empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    words.insert(text.substr(0, end));
    text.remove_prefix(end);
  }
  return words;
}

uint64_t number_of(std::string_view text) {
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// A file of /proc or /sys, whose size is not known before; "" where it cannot be read.
std::string read_kernel_file(const char* path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::optional<MemoryLimit> container_limit() {
  struct Files {
    const char* limit;
    const char* used;
  };
  constexpr std::array<Files, 2> kFiles{
      {{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
       {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"}}};
  for (const Files& files : kFiles) {
    const uint64_t limit = number_of(read_kernel_file(files.limit));  // 0 for "max"
    if (limit > 0) return MemoryLimit{limit, number_of(read_kernel_file(files.used))};
  }
  return std::nullopt;
}

}  // namespace

CpuDescription parse_cpuinfo(std::string_view text) {
  CpuDescription cpu;
  std::set<std::pair<std::string_view, std::string_view>> cores;
  std::string_view package;
  std::set<std::string_view> flags;
  for_each_field(text, [&](std::string_view name, std::string_view value) {
    if (name == "processor") ++cpu.logical_cpus;
    if (name == "model name" && cpu.model.empty()) cpu.model = value;
    if (name == "physical id") package = value;
    if (name == "core id") cores.insert({package, value});
    if ((name == "flags" || name == "Features") && flags.empty()) flags = words_of(value);
  });
  cpu.physical_cores = static_cast<int>(cores.size());
  for (const InstructionSetName& name : kInstructionSets) {
    if (flags.count(name.kernel) != 0) cpu.instruction_sets.emplace_back(name.people);
  }
  return cpu;
}

MemoryDescription parse_meminfo(std::string_view text) {
  MemoryDescription memory;
  for_each_field(text, [&](std::string_view name, std::string_view value) {
    const uint64_t bytes = number_of(value) * 1024;  // "16316412 kB"
    if (name == "MemTotal") memory.total = bytes;
    if (name == "MemAvailable") memory.available = bytes;
    if (name == "SwapTotal") memory.swap_total = bytes;
    if (name == "SwapFree") memory.swap_free = bytes;
  });
  return memory;
}

MemoryDescription apply_limit(MemoryDescription memory, const std::optional<MemoryLimit>& limit) {
  // Without a limit cgroup 1 writes a number near 2^63.
  if (!limit || limit->limit >= memory.total) return memory;
  memory.total = limit->limit;
  memory.available = std::min(memory.available, limit->limit - std::min(limit->limit, limit->used));
  return memory;
}

Machine describe_machine() {
  Machine machine;
  machine.cpu = parse_cpuinfo(read_kernel_file("/proc/cpuinfo"));
  machine.cpu.usable_cpus = available_cpus();
  machine.cpu.logical_cpus = std::max(machine.cpu.logical_cpus, machine.cpu.usable_cpus);
  machine.memory = apply_limit(parse_meminfo(read_kernel_file("/proc/meminfo")), container_limit());
  machine.gpu = describe_gpus();
  return machine;
}

}  // namespace onggi

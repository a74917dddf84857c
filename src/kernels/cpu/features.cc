#include "kernels/cpu/features.h"

#include <hwy/targets.h>

#include <cstdlib>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>

#include "base/error.h"
#include "base/text.h"

namespace onggi::cpu {
namespace {

CpuLevel read_limit() {
  const char* given = std::getenv("ONGGI_CPU");
  const std::string word = given == nullptr ? "" : given;
  if (word.empty() || word == "avx512") return CpuLevel::kAvx512;
  if (word == "avx2") return CpuLevel::kAvx2;
  if (word == "portable") return CpuLevel::kPortable;
  throw UsageError(
      text("the environment variable ONGGI_CPU is '{}': use portable, avx2 or avx512, or unset it", word));
}

}  // namespace

CpuLevel cpu_limit() {
  static const CpuLevel limit = read_limit();
  return limit;
}

void apply_cpu_limit() {
  // Highway's better targets have the lower bits.
  if (cpu_limit() == CpuLevel::kAvx2) {
    hwy::DisableTargets(HWY_AVX2 - 1);
    dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
  }
  if (cpu_limit() == CpuLevel::kPortable) {
    hwy::DisableTargets(2 * HWY_SSSE3 - 1);
    dnnl::set_max_cpu_isa(dnnl::cpu_isa::sse41);  // its lowest
  }
}

bool has_avx2() {
  static const bool has = [] {
    __builtin_cpu_init();
    return cpu_limit() >= CpuLevel::kAvx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  }();
  return has;
}

bool has_avx512() {
  static const bool has = [] {
    __builtin_cpu_init();
    return cpu_limit() >= CpuLevel::kAvx512 && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  }();
  return has;
}

bool has_avx512_bf16() {
  static const bool has = has_avx512() && __builtin_cpu_supports("avx512bf16");
  return has;
}

}  // namespace onggi::cpu

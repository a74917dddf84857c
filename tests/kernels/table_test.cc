// The support matrix, read from the tables that execute.
#include <hwy/targets.h>

#include <cstdio>
#include <cstdlib>
#include <oneapi/dnnl/dnnl.hpp>

#include "base/error.h"
#include "kernels/cpu/features.h"
#include "kernels/cpu/quantized_dot.h"
#include "tests/kernels/harness.h"

namespace onggi::testing_ops {
namespace {

TEST(TableTest, EveryWeightTypeIsSupportedByEveryTable) {
  for (const OpTable* table : {&ref_ops(), &cpu_ops()}) {
    std::printf("%.*s: dtype, embedding, linear, linear_backward\n", static_cast<int>(table->name.size()),
                table->name.data());
    for (int i = 0; i < kDTypeCount; ++i) {
      const auto dtype = static_cast<DType>(i);
      const auto entry = static_cast<size_t>(i);
      const bool expected = is_weight_dtype(dtype);
      const std::string name(dtype_name(dtype));
      EXPECT_EQ(table->embedding[entry] != nullptr, expected) << table->name << " embedding " << name;
      EXPECT_EQ(table->linear[entry] != nullptr, expected) << table->name << " linear " << name;
      EXPECT_EQ(table->linear_backward[entry] != nullptr, expected)
          << table->name << " linear_backward " << name;
      const auto mark = [](bool has) { return has ? "yes" : "-"; };
      std::printf("  %-5s %-4s %-4s %-4s\n", name.c_str(), mark(table->embedding[entry] != nullptr),
                  mark(table->linear[entry] != nullptr), mark(table->linear_backward[entry] != nullptr));
    }
    EXPECT_TRUE(table->gemm != nullptr && table->dropout != nullptr && table->rms_norm != nullptr &&
                table->rms_norm_backward != nullptr && table->head_norm_rope != nullptr &&
                table->head_norm_rope_backward != nullptr && table->swiglu != nullptr &&
                table->swiglu_backward != nullptr && table->gather_rows != nullptr &&
                table->scatter_rows != nullptr && table->attention != nullptr &&
                table->attention_backward != nullptr && table->kv_store != nullptr &&
                table->cached_attention != nullptr && table->cross_entropy != nullptr &&
                table->sum_of_squares != nullptr && table->adamw != nullptr)
        << table->name;
  }
}

TEST(TableTest, AnUnsupportedTypeIsNamed) {
  const LinearArgs args{.x = nullptr, .weight = {.dtype = DType::kI32}, .tokens = 0, .out = nullptr};
  try {
    run_op(cpu_ops().linear, "linear", cpu_ops(), DType::kI32, context(), args);
    FAIL() << "no error was thrown";
  } catch (const InputError& error) {
    const std::string message = error.what();
    for (const char* part : {"cpu", "linear", "i32"})
      EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

// CTest runs this program once for each level (CMakeLists.txt): each must really keep to its instructions.
TEST(CpuLevel, TheEnvironmentLimitsAllThatChooseInstructions) {
  const char* given = std::getenv("ONGGI_CPU");
  const std::string limit = given == nullptr ? "" : given;
  cpu_ops();
  const cpu::DotLevel best = cpu::available_dot_levels().back();
  if (limit == "portable") {
    EXPECT_EQ(best, cpu::DotLevel::kPortable);
    EXPECT_EQ(hwy::SupportedTargets() & (2 * HWY_SSSE3 - 1), 0) << "Highway goes beyond SSE2";
    EXPECT_EQ(dnnl::get_effective_cpu_isa(), dnnl::cpu_isa::sse41);
  } else if (limit == "avx2") {
    EXPECT_LE(best, cpu::DotLevel::kAvxVnni);
    EXPECT_EQ(hwy::SupportedTargets() & (HWY_AVX2 - 1), 0) << "Highway goes beyond AVX2";
    EXPECT_LE(dnnl::get_effective_cpu_isa(), dnnl::cpu_isa::avx2);
  } else {
    EXPECT_EQ(cpu::has_avx512(), __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                     __builtin_cpu_supports("avx512dq") &&
                                     __builtin_cpu_supports("avx512vl"));
  }
  EXPECT_EQ(cpu::has_avx512_bf16(), best == cpu::DotLevel::kAvx512Bf16);
}

}  // namespace
}  // namespace onggi::testing_ops

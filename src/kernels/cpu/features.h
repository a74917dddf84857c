// Which instructions may be used: those that this processor has, up to the limit that the environment sets.
// Asked once, at run time.
#pragma once

namespace onggi::cpu {

// ONGGI_CPU = portable | avx2 | avx512 keeps the kernels to instructions of that level, where a machine has
// more: to compare levels, or to have the results of a smaller machine. Not set: all that the processor has.
enum class CpuLevel { kPortable, kAvx2, kAvx512 };
// Throws UsageError for another word.
CpuLevel cpu_limit();

// Makes the libraries that choose instructions by themselves (Highway, oneDNN) keep the limit. Before the
// first kernel runs.
void apply_cpu_limit();

// AVX2 with FMA.
bool has_avx2();
// AVX-512 (F, BW, DQ, VL).
bool has_avx512();
// The same with the bf16 dot product: Zen 4 and later, Cooper Lake, Sapphire Rapids.
bool has_avx512_bf16();

}  // namespace onggi::cpu

// For functions that use those instructions; callers ask has_avx512_bf16() first. Attributes rather than
// compiler flags per file, so that no inline function of a header is built for a processor we do not have.
#define ONGGI_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,f16c,fma")))

// Which instructions this processor has; asked once, at run time.
#pragma once

namespace onggi::cpu {

// AVX-512 (F, BW, DQ, VL) with the bf16 dot product: Zen 4 and later, Cooper Lake, Sapphire Rapids.
bool has_avx512_bf16();

}  // namespace onggi::cpu

// For functions that use those instructions; callers ask has_avx512_bf16() first. Attributes rather than
// compiler flags per file, so that no inline function of a header is built for a processor we do not have.
#define ONGGI_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,f16c,fma")))

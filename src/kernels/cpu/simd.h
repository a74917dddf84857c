// For files that Highway compiles once per instruction set and picks from at run time. Include it before
// hwy/foreach_target.h. Three sets are enough here: scalar code, AVX2 with FMA, and AVX-512; the others would
// only add compile time.
#pragma once

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)

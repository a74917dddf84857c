// Linear layers for few tokens, as in decoding: the weights, in whatever format they are stored, are read
// once and multiplied on the fly. Reading them is what takes the time, so nothing is unpacked to memory
// first.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops/context.h"
#include "kernels/ops/linear.h"

namespace onggi::cpu {

// Whether linear_few_tokens takes weights of this dtype: f32, f16, bf16, nf4, q4_0, q8_0, q2_k ... q6_k.
bool has_few_token_kernel(DType dtype);

// The largest T for which linear_few_tokens is faster than unpacking the weight and a matrix product in bf16;
// measured on the development machine (Zen 5). No limit for block formats where the CPU has AVX-512 VNNI; 0
// where there is no kernel.
int64_t few_token_limit(DType dtype);

// out (+)= x W^T in Precision::kFast, for any T (meant for T up to few_token_limit(dtype)). What x is rounded
// to:
//   block formats   int8 with a scale per 32 values, amax / 127; the products are exact integers. The error
//   of
//                   an output is that of x alone: about 0.5 % of |x| |w| / sqrt(K) for normally distributed x
//   bf16, nf4       bf16 where the CPU multiplies bf16 (nf4's code is then bf16 as well), else not at all
//   f32, f16        nothing
// Row n's result depends on the row, x and T alone, never on the number of threads. An x that is not finite
// gives outputs that are not finite.
void linear_few_tokens(const OpContext& context, const LinearArgs& args);

// The instruction sets that there are kernels for, each an improvement on those before it. A format without a
// kernel of its own for a set uses the best below.
enum class DotLevel { kPortable, kAvx2, kAvxVnni, kAvx512Vnni, kAvx512Bf16 };
// Those that this CPU has; the last is what linear_few_tokens uses.
const std::vector<DotLevel>& available_dot_levels();
// linear_few_tokens with one of them, for tests and benchmarks.
void linear_few_tokens_at(DotLevel level, const OpContext& context, const LinearArgs& args);

}  // namespace onggi::cpu

// Single-precision products of one thread, by oneDNN.
#pragma once

#include <cstdint>

#include "kernels/ops/linear.h"

namespace onggi::cpu {

struct SgemmArgs {
  Transpose transpose_a = Transpose::kNo;
  Transpose transpose_b = Transpose::kNo;
  int64_t m, n, k;
  float alpha = 1.0f;
  const float* a;  // row-major with row stride a_row
  int64_t a_row;
  const float* b;
  int64_t b_row;
  float* c;
  int64_t c_row;
  bool accumulate = false;
};
// c (+)= alpha op(a) op(b) on the calling thread alone: oneDNN's own threads are switched off for it, since
// ours already run beside it.
void sgemm(const SgemmArgs& args);

}  // namespace onggi::cpu

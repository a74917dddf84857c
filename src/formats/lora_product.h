// The change that an adapter makes to a weight, row by row: what merging and conversion add while tensors
// stream by. Letters: N outputs, K inputs, R rank of a weight [N, K].
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/adapter.h"

namespace onggi {

class LoraProduct {
 public:
  // Reads A [R, K] and B [N, R] of the module in fp32.
  LoraProduct(const AdapterReader& adapter, const std::string& module);

  // values[k] += scale * sum over r of B[row, r] * A[r, k], in fp32, summed over r in order; values has K
  // elements. The same bits on every machine. Safe from several threads.
  void add(int64_t row, float* values) const;
  // The same product alone.
  void row(int64_t row, float* delta) const;

 private:
  int64_t rank_ = 0;
  int64_t columns_ = 0;
  float scale_ = 0;       // alpha / r
  std::vector<float> a_;  // [R, K]
  std::vector<float> b_;  // [N, R]
};

}  // namespace onggi

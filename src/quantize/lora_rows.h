// Adds an adapter's product to rows of a weight while they stream by. Letters: N outputs, K inputs, R rank.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "formats/adapter.h"

namespace onggi {

class LoraRows {
 public:
  // Reads A [R, K] and B [N, R] of the module in fp32.
  LoraRows(const AdapterReader& adapter, const std::string& module);

  // values[k] += scale * sum over r of B[row, r] * A[r, k]; values has K elements. Safe from several threads.
  void add(int64_t row, float* values) const;

 private:
  int64_t rank_ = 0;
  int64_t columns_ = 0;
  std::vector<float> a_;  // [R, K]
  std::vector<float> b_;  // [N, R], already times scale
};

}  // namespace onggi

// The arithmetic of a merge, row by row. Letters: N outputs, K inputs, R rank of a weight W [N, K].
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/threads.h"
#include "blocks/nf4.h"
#include "formats/mapped_tensors.h"

namespace onggi {

// Sums over a row that describe the change.
struct RowChange {
  double delta_squares = 0;   // of scale B A
  double weight_squares = 0;  // of W
  double error_squares = 0;   // of written - (W + scale B A)
  int64_t changed = 0;        // weights whose 16-bit value is another one
};

// written[k] = weight[k] + delta[k] rounded to the 16-bit dtype (kBF16 or kF16).
RowChange merge_row(const float* weight, const float* delta, int64_t columns, DType dtype, uint16_t* written);
// written[k] = weight[k] rounded to the 16-bit dtype.
void round_row(const float* weight, int64_t columns, DType dtype, uint16_t* written);

// Rows of a base weight in fp32, as stored or as NF4 gives them back.
class BaseRows {
 public:
  // As stored.
  explicit BaseRows(TensorView weight) : weight_(std::move(weight)) {}
  // Through NF4 with double quantisation: reads all of the weight once, block by block, releasing its pages.
  BaseRows(const MappedTensors& source, const TensorInfo& info, ThreadPool& threads);

  void read(int64_t row, float* out) const;

 private:
  TensorView weight_;
  std::optional<Nf4Storage> nf4_;
};

// Rows of K elements that make a block of about 4 MB in fp32: small beside the machine, large beside a write.
int64_t rows_per_block(int64_t rows, int64_t columns);

}  // namespace onggi

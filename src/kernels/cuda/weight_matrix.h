// A placed weight as an operand of matrix products: the weight itself where its dtype is the product's, else
// made in working memory, in pieces where it is large.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/matmul.h"

namespace onggi::cuda {

class WeightMatrix {
 public:
  // dtype: of the product, f32 or bf16. lora_columns: columns behind K that a piece has for an adapter (bf16
  // alone); the weight is then always copied.
  WeightMatrix(const WeightView& weight, DType dtype, int64_t lora_columns = 0);

  bool is_in_place() const { return in_place_; }
  // Working memory of one piece.
  size_t scratch_bytes() const;
  int64_t piece_rows() const { return piece_rows_; }
  // Rows [first_row, first_row + piece_rows()), fewer at the end; made in `scratch`, whose last piece it
  // replaces.
  MatrixView piece(CudaStream& stream, int64_t first_row, void* scratch, Nf4Rounding rounding,
                   const LoraColumns& lora = {}) const;

 private:
  WeightView weight_;
  DType dtype_;
  int64_t stride_;
  bool in_place_;
  int64_t piece_rows_;
};

}  // namespace onggi::cuda

#include "kernels/cuda/weight_matrix.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/placed_layout.h"

namespace onggi::cuda {
namespace {

// Every linear layer of a 32B model fits; a vocabulary's matrix comes in pieces.
constexpr int64_t kPieceBytes = int64_t{256} << 20;

}  // namespace

WeightMatrix::WeightMatrix(const WeightView& weight, DType dtype, int64_t lora_columns)
    : weight_(weight),
      dtype_(dtype),
      stride_(weight.columns + lora_columns),
      in_place_(weight.dtype == dtype && lora_columns == 0) {
  ONGGI_CHECK(dtype == DType::kBF16 || (dtype == DType::kF32 && lora_columns == 0));
  piece_rows_ = weight.rows;
  if (in_place_) return;
  // Block types are cut between tiles.
  const int64_t multiple = is_placed_in_tiles(weight.dtype) ? kTileRows : 1;
  const int64_t fitting = kPieceBytes / dtype_bytes(dtype, stride_) / multiple * multiple;
  piece_rows_ = std::min(std::max(fitting, multiple), weight.rows);
}

size_t WeightMatrix::scratch_bytes() const {
  return in_place_ ? 0 : static_cast<size_t>(dtype_bytes(dtype_, piece_rows_ * stride_));
}

MatrixView WeightMatrix::piece(CudaStream& stream, int64_t first_row, void* scratch, Nf4Rounding rounding,
                               const LoraColumns& lora) const {
  const MatrixView matrix{in_place_ ? weight_.data : scratch, dtype_, stride_};
  if (in_place_) return matrix;
  const DequantizeArgs args{.weight = weight_,
                            .first_row = first_row,
                            .rows = std::min(piece_rows_, weight_.rows - first_row),
                            .stride = stride_,
                            .lora = lora};
  if (dtype_ == DType::kF32) {
    dequantize_f32(stream, args, rounding, static_cast<float*>(scratch));
  } else {
    dequantize(stream, args, static_cast<__nv_bfloat16*>(scratch));
  }
  return matrix;
}

}  // namespace onggi::cuda

#include "kernels/ops/weight.h"

#include <cstddef>

#include "base/error.h"
#include "blocks/block_format.h"
#include "blocks/nf4.h"

namespace onggi {
namespace {

void decode_weight_nf4(const WeightView& weight, int64_t row, int64_t column, int64_t count, float* out) {
  const Nf4Tensor tensor{.rows = weight.rows,
                         .columns = weight.columns,
                         .packed = static_cast<const uint8_t*>(weight.data),
                         .absmax_q8 = weight.nf4_absmax,
                         .nested_absmax = weight.nf4_nested_absmax,
                         .offset = weight.nf4_offset};
  decode_nf4(tensor, row * weight.columns + column, count, out);
}

}  // namespace

bool is_weight_dtype(DType dtype) { return dtype == DType::kNF4 || has_block_format(dtype); }

int64_t weight_row_bytes(const WeightView& weight) { return dtype_bytes(weight.dtype, weight.columns); }

void decode_weight(const WeightView& weight, int64_t row, int64_t column, int64_t count, float* out) {
  if (weight.dtype == DType::kNF4) return decode_weight_nf4(weight, row, column, count, out);
  const DTypeInfo& info = dtype_info(weight.dtype);
  ONGGI_CHECK(column % info.block_elements == 0 && count % info.block_elements == 0);
  const auto* bytes = static_cast<const std::byte*>(weight.data) + row * weight_row_bytes(weight) +
                      column / info.block_elements * info.block_bytes;
  block_format(weight.dtype).decode(bytes, count, out);
}

void decode_weight_for_gradient(const WeightView& weight, int64_t row, int64_t column, int64_t count,
                                float* out) {
  decode_weight(weight, row, column, count, out);
  if (weight.dtype != DType::kNF4) return;
  for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(f32_to_bf16(out[i]));
}

}  // namespace onggi

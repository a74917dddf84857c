#include "quantize/lora_rows.h"

#include "blocks/multi_target.h"

namespace onggi {
namespace {

std::vector<float> to_f32(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  read_as_f32(tensor, 0, tensor.elements(), values.data());
  return values;
}

// Tiles of K stay in registers and cache while the ranks go by; each element's sum runs over r in order.
ONGGI_TARGET_CLONES
void add_product(const float* a, const float* b, int64_t rank, int64_t columns, float* values) {
  constexpr int64_t kTile = 256;
  for (int64_t begin = 0; begin < columns; begin += kTile) {
    const int64_t count = columns - begin < kTile ? columns - begin : kTile;
    float delta[kTile] = {};
    for (int64_t r = 0; r < rank; ++r) {
      const float factor = b[r];
      const float* row = a + r * columns + begin;
      for (int64_t k = 0; k < count; ++k) delta[k] += factor * row[k];
    }
    for (int64_t k = 0; k < count; ++k) values[begin + k] += delta[k];
  }
}

}  // namespace

LoraRows::LoraRows(const AdapterReader& adapter, const std::string& module) {
  const TensorView a = adapter.a(module);
  rank_ = a.shape[0];
  columns_ = a.shape[1];
  a_ = to_f32(a);
  b_ = to_f32(adapter.b(module));
  const float scale = static_cast<float>(adapter.config().scale());
  for (float& value : b_) value *= scale;
}

void LoraRows::add(int64_t row, float* values) const {
  add_product(a_.data(), b_.data() + row * rank_, rank_, columns_, values);
}

}  // namespace onggi

#include "formats/lora_product.h"

#include <algorithm>

#include "blocks/multi_target.h"

namespace onggi {
namespace {

std::vector<float> to_f32(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  read_as_f32(tensor, 0, tensor.elements(), values.data());
  return values;
}

struct ProductRow {
  const float* a;  // [R, K]
  const float* b;  // [R]
  int64_t rank, columns;
  float scale;
};

// Tiles of K stay in registers and cache while the ranks go by.
ONGGI_TARGET_CLONES
void add_product(const ProductRow& product, float* values) {
  constexpr int64_t kTile = 256;
  for (int64_t begin = 0; begin < product.columns; begin += kTile) {
    const int64_t count = product.columns - begin < kTile ? product.columns - begin : kTile;
    float delta[kTile] = {};
    for (int64_t r = 0; r < product.rank; ++r) {
      const float factor = product.b[r];
      const float* row = product.a + r * product.columns + begin;
      for (int64_t k = 0; k < count; ++k) delta[k] += factor * row[k];
    }
    for (int64_t k = 0; k < count; ++k) values[begin + k] += product.scale * delta[k];
  }
}

}  // namespace

LoraProduct::LoraProduct(const AdapterReader& adapter, const std::string& module) {
  const TensorView a = adapter.a(module);
  rank_ = a.shape[0];
  columns_ = a.shape[1];
  scale_ = static_cast<float>(adapter.config().scale());
  a_ = to_f32(a);
  b_ = to_f32(adapter.b(module));
}

void LoraProduct::add(int64_t row, float* values) const {
  add_product({a_.data(), b_.data() + row * rank_, rank_, columns_, scale_}, values);
}

void LoraProduct::row(int64_t row, float* delta) const {
  std::fill_n(delta, columns_, 0.0f);
  add(row, delta);
}

}  // namespace onggi

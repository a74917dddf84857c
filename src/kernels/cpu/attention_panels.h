// What the two directions of bf16 attention share. Needs has_avx512_bf16().
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/bf16_product.h"

namespace onggi::cpu {

// Hands out parts of a thread's scratch; with no base it only counts.
class Carver {
 public:
  explicit Carver(std::byte* base = nullptr) : base_(base) {}
  template <typename T>
  T* take(int64_t count) {
    T* part = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + size_);
    size_ += static_cast<size_t>((count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64);
    return part;
  }
  size_t size() const { return size_; }

 private:
  std::byte* base_;
  size_t size_ = 0;
};

// c [rows, columns] (+)= a b over panels of 32 columns of b.
struct PanelsArgs {
  ProductArgs product;   // of the first panel; `columns` is ignored
  int64_t columns;       // of all panels
  int64_t panel_stride;  // dwords
};
inline void product_panels(const PanelsArgs& args) {
  ProductArgs product = args.product;
  for (int64_t column = 0; column < args.columns; column += kPanelLanes) {
    product.panel =
        static_cast<const uint32_t*>(args.product.panel) + column / kPanelLanes * args.panel_stride;
    product.c = args.product.c + column;
    product.columns = std::min<int64_t>(kPanelLanes, args.columns - column);
    product_panel(product);
  }
}

}  // namespace onggi::cpu

#include "infer/hidden_head.h"

#include "tensor/dtype.h"

namespace onggi {

HiddenHead::HiddenHead(const Model& model, const Compute& compute) : model_(model) {
  const int64_t width = model.config.hidden_size;
  identity_.assign(static_cast<size_t>(width * width), 0);
  const uint16_t one = f32_to_bf16(1.0f);
  for (int64_t i = 0; i < width; ++i) identity_[static_cast<size_t>(i * (width + 1))] = one;
  model_.lm_head = {DType::kBF16, width, width, identity_.data()};
  if (compute.ops.place_weight == nullptr) return;
  model_.lm_head = compute.ops.place_weight(compute.stream(), model_.lm_head, buffers_);
  compute.stream().synchronize();
  identity_ = {};
}

}  // namespace onggi

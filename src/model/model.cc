#include "model/model.h"

#include <type_traits>

#include "base/error.h"

namespace onggi {

const WeightView& LayerWeights::linear(TensorRole role) const {
  switch (role) {
    case TensorRole::kQ:
      return query;
    case TensorRole::kK:
      return key;
    case TensorRole::kV:
      return value;
    case TensorRole::kO:
      return output;
    case TensorRole::kGate:
      return gate;
    case TensorRole::kUp:
      return up;
    case TensorRole::kDown:
      return down;
    default:
      throw_internal_error("role is a projection", __FILE__, __LINE__, "");
  }
}

void LayerWeights::move(std::span<const std::byte> from, const std::byte* to) {
  const auto rebase = [&](auto*& part) {
    const auto* at = reinterpret_cast<const std::byte*>(part);
    if (at < from.data() || at >= from.data() + from.size()) return;
    part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(to + (at - from.data()));
  };
  for (WeightView* weight : {&query, &key, &value, &output, &gate, &up, &down}) {
    rebase(weight->data);
    rebase(weight->nf4_absmax);
    rebase(weight->nf4_nested_absmax);
  }
}

ActivationFormat ActivationFormat::of(const OpTable& ops, DeviceKind device, Precision precision,
                                      int64_t rank) {
  return {device, ops.activation_dtype(precision), ops.row_padding(precision, rank), ops.workspace_bytes};
}

}  // namespace onggi

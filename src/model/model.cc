#include "model/model.h"

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

}  // namespace onggi

#include "model/product_memory.h"

#include <algorithm>

namespace onggi {

uint64_t product_bytes(const ModelConfig& config, const ActivationFormat& format) {
  const int64_t widest = std::max({config.hidden_size, config.q_size(), config.intermediate_size});
  const int64_t columns = config.hidden_size + format.row_padding;
  return sizeof(uint16_t) * static_cast<uint64_t>(widest * columns) + format.workspace_bytes;
}

}  // namespace onggi

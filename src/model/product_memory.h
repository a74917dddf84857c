// Working memory of a GPU's matrix products, beside what passes keep.
#pragma once

#include <cstdint>

#include "model/model.h"

namespace onggi {

// Bytes: the largest weight of a layer as bf16, with room for an adapter's columns (OpTable::row_padding),
// and the products' own workspace. An upper bound: one op's at a time.
uint64_t product_bytes(const ModelConfig& config, const ActivationFormat& format);

}  // namespace onggi

// Row encoders behind the table of block_format.h; see BlockFormat::encode for the contract.
#pragma once

#include <cstdint>

#include "blocks/q2_k.h"
#include "blocks/q3_k.h"
#include "blocks/q4_0.h"
#include "blocks/q4_k.h"
#include "blocks/q5_k.h"
#include "blocks/q6_k.h"
#include "blocks/q8_0.h"

namespace onggi {

// values [elements], importance [elements] or null, out [elements / block elements].
void encode_row(const float* values, int64_t elements, const float* importance, BlockQ8_0* out);
void encode_row(const float* values, int64_t elements, const float* importance, BlockQ4_0* out);
void encode_row(const float* values, int64_t elements, const float* importance, BlockQ2K* out);
void encode_row(const float* values, int64_t elements, const float* importance, BlockQ3K* out);
void encode_row(const float* values, int64_t elements, const float* importance, BlockQ4K* out);
void encode_row(const float* values, int64_t elements, const float* importance, BlockQ5K* out);
void encode_row(const float* values, int64_t elements, const float* importance, BlockQ6K* out);

}  // namespace onggi

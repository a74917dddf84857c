// Q2_K, Q4_K, Q5_K: the search of affine.h, then the packing of each format.
#include <algorithm>

#include "blocks/affine.h"
#include "blocks/encode.h"
#include "blocks/lanes.h"
#include "blocks/weights.h"

namespace onggi {
namespace {

constexpr float kShareOfRms = 0.5f;  // of Q2_K's weights

using Search2 = AffineSearch<16, 3, 15>;
using Search4 = AffineSearch<32, 15, 63>;
using Search5 = AffineSearch<32, 31, 63>;

// A template cannot be multi-versioned, so each format has its own entry.
ONGGI_TARGET_CLONES void search_2(const float* x, const float* w, AffineResult<16>& result) {
  Search2::Blocks blocks;
  load_sub_blocks(x, w, blocks);
  Search2::run(blocks, result);
}
ONGGI_TARGET_CLONES void search_4(const float* x, const float* w, AffineResult<32>& result) {
  Search4::Blocks blocks;
  load_sub_blocks(x, w, blocks);
  Search4::run(blocks, result);
}
ONGGI_TARGET_CLONES void search_5(const float* x, const float* w, AffineResult<32>& result) {
  Search5::Blocks blocks;
  load_sub_blocks(x, w, blocks);
  Search5::run(blocks, result);
}

void weights_4_and_5(const float* x, const float* importance, float* out) {
  if (importance != nullptr) return importance_weights(x, importance, 256, out);
  for (int sub = 0; sub < 8; ++sub) magnitude_and_rms_weights(x + 32 * sub, 32, out + 32 * sub);
}

void pack(const AffineResult<16>& from, BlockQ2K& to) {
  to.d = scale_to_f16(from.d);
  to.dmin = scale_to_f16(from.dmin);
  for (int sub = 0; sub < 16; ++sub)
    to.scales[sub] = static_cast<uint8_t>(from.scale[sub] | from.minimum[sub] << 4);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = from.q + 128 * half;
    for (int l = 0; l < 32; ++l) {
      to.qs[32 * half + l] = static_cast<uint8_t>(q[l] | q[l + 32] << 2 | q[l + 64] << 4 | q[l + 96] << 6);
    }
  }
}

void pack(const AffineResult<32>& from, BlockQ4K& to) {
  to.d = scale_to_f16(from.d);
  to.dmin = scale_to_f16(from.dmin);
  pack_q4k_scales(from.scale, from.minimum, to.scales);
  for (int j = 0; j < 4; ++j) {
    const uint8_t* q = from.q + 64 * j;
    for (int l = 0; l < 32; ++l) to.qs[32 * j + l] = static_cast<uint8_t>(q[l] | q[l + 32] << 4);
  }
}

void pack(const AffineResult<32>& from, BlockQ5K& to) {
  to.d = scale_to_f16(from.d);
  to.dmin = scale_to_f16(from.dmin);
  pack_q4k_scales(from.scale, from.minimum, to.scales);
  std::fill_n(to.qh, 32, uint8_t{0});
  for (int sub = 0; sub < 8; ++sub) {
    for (int l = 0; l < 32; ++l)
      to.qh[l] = static_cast<uint8_t>(to.qh[l] | (from.q[32 * sub + l] >> 4) << sub);
  }
  for (int j = 0; j < 4; ++j) {
    const uint8_t* q = from.q + 64 * j;
    for (int l = 0; l < 32; ++l)
      to.qs[32 * j + l] = static_cast<uint8_t>((q[l] & 15) | (q[l + 32] & 15) << 4);
  }
}

}  // namespace

void encode_row(const float* values, int64_t elements, const float* importance, BlockQ2K* out) {
  float weights[256];
  AffineResult<16> result;
  for (int64_t at = 0; at < elements; at += 256, ++out) {
    if (importance != nullptr) {
      importance_weights(values + at, importance + at, 256, weights);
    } else {
      magnitude_weights(values + at, 256, kShareOfRms, weights);
    }
    search_2(values + at, weights, result);
    pack(result, *out);
  }
}

void encode_row(const float* values, int64_t elements, const float* importance, BlockQ4K* out) {
  float weights[256];
  AffineResult<32> result;
  for (int64_t at = 0; at < elements; at += 256, ++out) {
    weights_4_and_5(values + at, importance != nullptr ? importance + at : nullptr, weights);
    search_4(values + at, weights, result);
    pack(result, *out);
  }
}

void encode_row(const float* values, int64_t elements, const float* importance, BlockQ5K* out) {
  float weights[256];
  AffineResult<32> result;
  for (int64_t at = 0; at < elements; at += 256, ++out) {
    weights_4_and_5(values + at, importance != nullptr ? importance + at : nullptr, weights);
    search_5(values + at, weights, result);
    pack(result, *out);
  }
}

}  // namespace onggi

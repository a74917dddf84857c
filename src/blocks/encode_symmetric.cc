// Q3_K and Q6_K: the search of symmetric.h, then the packing of each format.
#include <algorithm>
#include <cmath>

#include "blocks/encode.h"
#include "blocks/lanes.h"
#include "blocks/symmetric.h"
#include "blocks/weights.h"

namespace onggi {
namespace {

// Shares of the mean square in the weights; see weights.h.
constexpr float kShare3 = 0.5f;
constexpr float kShare6 = 0.3f;

using Search3 = SymmetricSearch<4, 32>;
using Search6 = SymmetricSearch<32, 128>;

ONGGI_TARGET_CLONES void search_3(const float* x, const float* w, SymmetricResult& result) {
  Search3::Blocks blocks;
  load_sub_blocks(x, w, blocks);
  Search3::run(blocks, result);
}
ONGGI_TARGET_CLONES void search_6(const float* x, const float* w, SymmetricResult& result) {
  Search6::Blocks blocks;
  load_sub_blocks(x, w, blocks);
  Search6::run(blocks, result);
}

void weights_of(const float* x, const float* importance, float share_of_mean, float* out) {
  if (importance != nullptr) {
    importance_weights(x, importance, 256, out);
  } else {
    square_weights(x, 256, share_of_mean, out);
  }
}

void pack(const SymmetricResult& from, BlockQ3K& to) {
  to.d = scale_to_f16(from.d);
  std::fill_n(to.scales, 12, uint8_t{0});
  for (int s = 0; s < 16; ++s) {
    const int scale = from.scale[s] + 32;
    to.scales[s % 8] = static_cast<uint8_t>(to.scales[s % 8] | (scale & 15) << (s < 8 ? 0 : 4));
    to.scales[8 + s % 4] = static_cast<uint8_t>(to.scales[8 + s % 4] | (scale >> 4) << (2 * (s / 4)));
  }
  std::fill_n(to.hmask, 32, uint8_t{0});
  for (int i = 0; i < 256; ++i) {
    to.hmask[i % 32] = static_cast<uint8_t>(to.hmask[i % 32] | (from.q[i] >> 2) << (i / 32));
  }
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = from.q + 128 * half;
    for (int l = 0; l < 32; ++l) {
      to.qs[32 * half + l] = static_cast<uint8_t>((q[l] & 3) | (q[l + 32] & 3) << 2 | (q[l + 64] & 3) << 4 |
                                                  (q[l + 96] & 3) << 6);
    }
  }
}

void pack(const SymmetricResult& from, BlockQ6K& to) {
  to.d = scale_to_f16(from.d);
  std::copy_n(from.scale, 16, to.scales);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = from.q + 128 * half;
    for (int l = 0; l < 32; ++l) {
      to.ql[64 * half + l] = static_cast<uint8_t>((q[l] & 15) | (q[l + 64] & 15) << 4);
      to.ql[64 * half + 32 + l] = static_cast<uint8_t>((q[l + 32] & 15) | (q[l + 96] & 15) << 4);
      to.qh[32 * half + l] = static_cast<uint8_t>(q[l] >> 4 | (q[l + 32] >> 4) << 2 | (q[l + 64] >> 4) << 4 |
                                                  (q[l + 96] >> 4) << 6);
    }
  }
}

}  // namespace

void encode_row(const float* values, int64_t elements, const float* importance, BlockQ3K* out) {
  float weights[256];
  SymmetricResult result;
  for (int64_t at = 0; at < elements; at += 256, ++out) {
    weights_of(values + at, importance != nullptr ? importance + at : nullptr, kShare3, weights);
    search_3(values + at, weights, result);
    pack(result, *out);
  }
}

void encode_row(const float* values, int64_t elements, const float* importance, BlockQ6K* out) {
  float weights[256];
  SymmetricResult result;
  for (int64_t at = 0; at < elements; at += 256, ++out) {
    weights_of(values + at, importance != nullptr ? importance + at : nullptr, kShare6, weights);
    search_6(values + at, weights, result);
    pack(result, *out);
  }
}

}  // namespace onggi

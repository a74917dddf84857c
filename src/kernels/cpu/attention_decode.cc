#include "kernels/cpu/attention_decode.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/simd.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_decode.cc"
#include "hwy/foreach_target.h"  // must come before highway.h
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace onggi::cpu::HWY_NAMESPACE {
namespace {

void widen_bf16(const uint16_t* in, int64_t count, float* out) {
  for_lanes(count, [&](auto d, int64_t i) HWY_ATTR {
    const hn::RebindToUnsigned<decltype(d)> d32;
    const hn::Rebind<uint16_t, decltype(d)> d16;
    const auto bits = hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, in + i)));
    hn::StoreU(hn::BitCast(d, bits), d, out + i);
  });
}

void widen_f16(const uint16_t* in, int64_t count, float* out) {
  for_lanes(count, [&](auto d, int64_t i) HWY_ATTR {
    const hn::Rebind<hwy::float16_t, decltype(d)> d16;
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(in) + i)), d, out + i);
  });
}

float dot(const float* a, const float* b, int64_t count) {
  return sum_lanes(
      count, [&](auto d, int64_t i) HWY_ATTR { return hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i)); });
}

// First element of a cached token's vector.
int64_t cache_index(const CachedHead& head, int64_t token) {
  const int64_t page = head.pages[token / head.cache.page_tokens];
  const int64_t slot = page * head.cache.page_tokens + token % head.cache.page_tokens;
  return (slot * head.kv_heads + head.kv_head) * head.head_dim;
}

void load(const CachedHead& head, CacheSide side, int64_t first, int64_t count, float* out) {
  const void* data = side == CacheSide::kKeys ? head.cache.keys : head.cache.values;
  for (int64_t token = first; token < first + count; ++token, out += head.head_dim) {
    const int64_t index = cache_index(head, token);
    if (head.cache.dtype == DType::kBF16) {
      widen_bf16(static_cast<const uint16_t*>(data) + index, head.head_dim, out);
    } else if (head.cache.dtype == DType::kF16) {
      widen_f16(static_cast<const uint16_t*>(data) + index, head.head_dim, out);
    } else {
      std::copy_n(static_cast<const float*>(data) + index, head.head_dim, out);
    }
  }
}

void store(const CachedHead& head, CacheSide side, int64_t token, const float* vector) {
  void* data = side == CacheSide::kKeys ? head.cache.keys : head.cache.values;
  const int64_t index = cache_index(head, token);
  if (head.cache.dtype == DType::kBF16) {
    uint16_t* out = static_cast<uint16_t*>(data) + index;
    for (int64_t i = 0; i < head.head_dim; ++i) out[i] = f32_to_bf16(vector[i]);
  } else if (head.cache.dtype == DType::kF16) {
    // Highway rounds to the nearest only where the processor has the instruction.
    uint16_t* out = static_cast<uint16_t*>(data) + index;
    for (int64_t i = 0; i < head.head_dim; ++i) out[i] = f32_to_f16(vector[i]);
  } else {
    std::copy_n(vector, head.head_dim, static_cast<float*>(data) + index);
  }
}

// scores become exp(score - maximum); returns their sum.
float exponentials(float* scores, int64_t count, float maximum) {
  return sum_lanes(count, [&](auto d, int64_t i) HWY_ATTR {
    const auto e = exp_lanes(d, hn::Sub(hn::LoadU(d, scores + i), hn::Set(d, maximum)));
    hn::StoreU(e, d, scores + i);
    return e;
  });
}

// out += sum over j of p[j] v[j]
void add_weighted(const float* p, const float* v, int64_t keys, int64_t head_dim, float* out) {
  for_lanes(head_dim, [&](auto d, int64_t i) HWY_ATTR {
    auto sum = hn::LoadU(d, out + i);
    for (int64_t j = 0; j < keys; ++j)
      sum = hn::MulAdd(hn::Set(d, p[j]), hn::LoadU(d, v + j * head_dim + i), sum);
    hn::StoreU(sum, d, out + i);
  });
}

void scale_by(float* x, int64_t count, float factor) {
  for_lanes(count, [&](auto d, int64_t i)
                       HWY_ATTR { hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), d, x + i); });
}

void decode(const DecodeArgs& args) {
  const int64_t dim = args.head.head_dim, queries = args.rows * args.group;
  float* block = args.scratch;
  float* scores = block + kDecodeBlock * dim;
  const auto visible = [&](int64_t query) {
    return std::clamp<int64_t>(args.position + query / args.group + 1 - args.first, 0, args.count);
  };
  const auto out_of = [&](int64_t query) {
    return args.out + query / args.group * args.out_row + query % args.group * args.out_head;
  };
  for (int64_t first = 0; first < args.count; first += kDecodeBlock) {
    const int64_t count = std::min(kDecodeBlock, args.count - first);
    load(args.head, CacheSide::kKeys, args.first + first, count, block);
    for (int64_t query = 0; query < queries; ++query) {
      const float* q = args.q + query / args.group * args.q_row + query % args.group * dim;
      for (int64_t j = 0; j < count; ++j)
        scores[query * args.count + first + j] = args.scale * dot(q, block + j * dim, dim);
    }
  }
  for (int64_t query = 0; query < queries; ++query) {
    const int64_t seen = visible(query);
    float* row = scores + query * args.count;
    args.maximum[query] = seen > 0 ? max_lanes(row, seen) : -std::numeric_limits<float>::infinity();
    args.sum[query] = exponentials(row, seen, args.maximum[query]);
    std::fill_n(out_of(query), dim, 0.0f);
  }
  for (int64_t first = 0; first < args.count; first += kDecodeBlock) {
    load(args.head, CacheSide::kValues, args.first + first, std::min(kDecodeBlock, args.count - first),
         block);
    for (int64_t query = 0; query < queries; ++query) {
      const int64_t count = std::clamp<int64_t>(visible(query) - first, 0, kDecodeBlock);
      add_weighted(scores + query * args.count + first, block, count, dim, out_of(query));
    }
  }
  for (int64_t query = 0; query < queries; ++query)
    if (args.sum[query] > 0) scale_by(out_of(query), dim, 1.0f / args.sum[query]);
}

}  // namespace
}  // namespace onggi::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace onggi::cpu {

HWY_EXPORT(load);
HWY_EXPORT(store);
HWY_EXPORT(decode);

int64_t decode_scratch_floats(int64_t queries, int64_t count, int64_t head_dim) {
  return kDecodeBlock * head_dim + queries * count;
}

void load_cached(const CachedHead& head, CacheSide side, int64_t first, int64_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(load)(head, side, first, count, out);
}

void store_cached(const CachedHead& head, CacheSide side, int64_t token, const float* vector) {
  HWY_DYNAMIC_DISPATCH(store)(head, side, token, vector);
}

void decode_attention(const DecodeArgs& args) { HWY_DYNAMIC_DISPATCH(decode)(args); }

}  // namespace onggi::cpu
#endif  // HWY_ONCE

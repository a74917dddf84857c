#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/ref.h"

namespace onggi::ref {
namespace {

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{a[i]} * b[i];
  return sum;
}

// Turns scores into probabilities in place and returns log sum exp(scores).
double softmax(std::vector<double>& scores) {
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - maximum);
  for (double& score : scores) score /= sum;
  return maximum + std::log(sum);
}

float load(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF16:
      return f16_to_f32(static_cast<const uint16_t*>(data)[index]);
    case DType::kBF16:
      return bf16_to_f32(static_cast<const uint16_t*>(data)[index]);
    default:
      return static_cast<const float*>(data)[index];
  }
}

void store(void* data, DType dtype, int64_t index, float value) {
  switch (dtype) {
    case DType::kF16:
      static_cast<uint16_t*>(data)[index] = f32_to_f16(value);
      break;
    case DType::kBF16:
      static_cast<uint16_t*>(data)[index] = f32_to_bf16(value);
      break;
    default:
      static_cast<float*>(data)[index] = value;
  }
}

// First element of the head's vector of a cached token.
int64_t cache_index(const KvLayer& cache, const SequenceRows& sequence, int64_t token, int64_t kv_heads,
                    int64_t kv_head, int64_t head_dim) {
  const int64_t page = sequence.pages[token / cache.page_tokens];
  return ((page * cache.page_tokens + token % cache.page_tokens) * kv_heads + kv_head) * head_dim;
}

}  // namespace

void attention(const OpContext&, const AttentionArgs& args) {
  check_dense(args.out_stride, args.query_heads * args.head_dim);
  const int64_t dim = args.head_dim, group = args.query_heads / args.kv_heads;
  for (int64_t segment = 0; segment < args.segments.count; ++segment) {
    const int64_t begin = args.segments.starts[segment], end = args.segments.starts[segment + 1];
    for (int64_t t = begin; t < end; ++t)
      for (int64_t h = 0; h < args.query_heads; ++h) {
        const auto kv_row = [&](int64_t s) { return (s * args.kv_heads + h / group) * dim; };
        const int64_t q_row = (t * args.query_heads + h) * dim;
        std::vector<double> weights;
        for (int64_t s = begin; s <= t; ++s)
          weights.push_back(args.scale * dot(args.q + q_row, args.k + kv_row(s), dim));
        const double log_sum_exp = softmax(weights);
        for (int64_t d = 0; d < dim; ++d) {
          double sum = 0;
          for (int64_t s = begin; s <= t; ++s)
            sum += weights[static_cast<size_t>(s - begin)] * args.v[kv_row(s) + d];
          args.out[q_row + d] = static_cast<float>(sum);
        }
        if (args.log_sum_exp != nullptr)
          args.log_sum_exp[t * args.query_heads + h] = static_cast<float>(log_sum_exp);
      }
  }
}

// With p = softmax(scale q.k), o = sum p v:
//   dv_s += p_s do;  dp_s = do.v_s;  ds_s = p_s (dp_s - do.o);  dq += scale ds_s k_s;  dk_s += scale ds_s q
void attention_backward(const OpContext&, const AttentionBackwardArgs& args) {
  check_dense(args.out_stride, args.query_heads * args.head_dim);
  const int64_t dim = args.head_dim, group = args.query_heads / args.kv_heads;
  std::vector<double> dk(static_cast<size_t>(args.tokens * args.kv_heads * dim), 0.0), dv(dk.size(), 0.0);
  std::vector<double> dq(static_cast<size_t>(dim));
  for (int64_t segment = 0; segment < args.segments.count; ++segment) {
    const int64_t begin = args.segments.starts[segment], end = args.segments.starts[segment + 1];
    for (int64_t t = begin; t < end; ++t)
      for (int64_t h = 0; h < args.query_heads; ++h) {
        const int64_t q_row = (t * args.query_heads + h) * dim;
        const float* q = args.q + q_row;
        const float* dout = args.dout + q_row;
        const double dout_out = dot(dout, args.out + q_row, dim);
        std::fill(dq.begin(), dq.end(), 0.0);
        for (int64_t s = begin; s <= t; ++s) {
          const int64_t kv_row = (s * args.kv_heads + h / group) * dim;
          const double p = std::exp(args.scale * dot(q, args.k + kv_row, dim) -
                                    args.log_sum_exp[t * args.query_heads + h]);
          const double ds = args.scale * p * (dot(dout, args.v + kv_row, dim) - dout_out);
          for (int64_t d = 0; d < dim; ++d) {
            const auto kv = static_cast<size_t>(kv_row + d);
            dv[kv] += p * dout[d];
            dk[kv] += ds * q[d];
            dq[static_cast<size_t>(d)] += ds * args.k[kv_row + d];
          }
        }
        for (int64_t d = 0; d < dim; ++d) args.dq[q_row + d] = static_cast<float>(dq[static_cast<size_t>(d)]);
      }
  }
  std::copy(dk.begin(), dk.end(), static_cast<float*>(args.dk));
  std::copy(dv.begin(), dv.end(), static_cast<float*>(args.dv));
}

void kv_store(const OpContext&, const KvStoreArgs& args) {
  for (int64_t s = 0; s < args.sequences.count; ++s) {
    const SequenceRows sequence = rows_of(args.sequences, s);
    for (int64_t i = 0; i < sequence.rows; ++i)
      for (int64_t h = 0; h < args.kv_heads; ++h) {
        const int64_t from = ((sequence.first_row + i) * args.kv_heads + h) * args.head_dim;
        const int64_t to =
            cache_index(args.cache, sequence, sequence.past + i, args.kv_heads, h, args.head_dim);
        for (int64_t d = 0; d < args.head_dim; ++d) {
          store(args.cache.keys, args.cache.dtype, to + d, args.k[from + d]);
          store(args.cache.values, args.cache.dtype, to + d, args.v[from + d]);
        }
      }
  }
}

void cached_attention(const OpContext&, const CachedAttentionArgs& args) {
  check_dense(args.out_stride, args.query_heads * args.head_dim);
  const int64_t dim = args.head_dim, group = args.query_heads / args.kv_heads;
  for (int64_t n = 0; n < args.sequences.count; ++n) {
    const SequenceRows sequence = rows_of(args.sequences, n);
    for (int64_t i = 0; i < sequence.rows; ++i)
      for (int64_t h = 0; h < args.query_heads; ++h) {
        const float* q = args.q + ((sequence.first_row + i) * args.query_heads + h) * dim;
        float* out = args.out + ((sequence.first_row + i) * args.query_heads + h) * dim;
        const auto kv_row = [&](int64_t token) {
          return cache_index(args.cache, sequence, token, args.kv_heads, h / group, dim);
        };
        std::vector<double> weights;
        for (int64_t token = 0; token <= sequence.past + i; ++token) {
          double score = 0;
          for (int64_t d = 0; d < dim; ++d)
            score += double{q[d]} * load(args.cache.keys, args.cache.dtype, kv_row(token) + d);
          weights.push_back(args.scale * score);
        }
        softmax(weights);
        for (int64_t d = 0; d < dim; ++d) {
          double sum = 0;
          for (int64_t token = 0; token <= sequence.past + i; ++token)
            sum += weights[static_cast<size_t>(token)] *
                   load(args.cache.values, args.cache.dtype, kv_row(token) + d);
          out[d] = static_cast<float>(sum);
        }
      }
  }
}

}  // namespace onggi::ref

// Attention for training in the plainest way: every product in f32, one warp per row and head, which goes
// through the row's keys (or the key's queries) one by one. For f32, where it is the reference, and for the
// head dimensions that the fast kernels do not know.
//
// Every pair of a query and a key costs two dot products at most, whose 32 partial sums a warp adds up in
// five exchanges: about 60 instructions at D = 128. Qwen3-8B, T = 512 in one segment: 4.2 million pairs a
// layer in each of three passes, about 1 ms each.
#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/launch.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

template <typename T>
struct Simple {
  const T* dout;  // null in the forward pass
  const T* q;
  const T* k;
  const T* v;
  const T* out_rows;
  T* out;
  const float* log_sum_exp;
  float* new_log_sum_exp;
  float* delta;  // [T, Hq]
  const int32_t* first_row;
  const int32_t* end_row;
  T* dq;
  T* dk;
  T* dv;
  int64_t out_stride, tokens;
  int query_heads, kv_heads, head_dim;
  float scale;

  // First element of a row's vector of a head.
  __device__ int64_t query_at(int64_t row, int head) const { return (row * query_heads + head) * head_dim; }
  __device__ int64_t key_at(int64_t row, int kv_head) const { return (row * kv_heads + kv_head) * head_dim; }
};

// The row and head of this warp among `rows` x `heads`; false where there is none.
struct RowHead {
  int64_t row;
  int head;
};
__device__ bool find_row(int64_t rows, int heads, RowHead& found) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + warp_index();
  found = {index / heads, static_cast<int>(index % heads)};
  return index < rows * heads;
}

// The warp's own vectors of D f32 in shared memory. Lane i has elements i, i + 32, ...: each is read and
// written by one lane alone.
__device__ float* warp_vector(int index, int vectors, int head_dim) {
  return dynamic_shared<float>() + (warp_index() * vectors + index) * head_dim;
}
template <typename T>
__device__ void load_vector(float* vector, const T* from, int head_dim) {
  for (int d = lane_index(); d < head_dim; d += kWarp) vector[d] = load_f32(from + d);
}
__device__ void clear_vector(float* vector, int head_dim) {
  for (int d = lane_index(); d < head_dim; d += kWarp) vector[d] = 0;
}
template <typename T>
__device__ float dot(const float* vector, const T* other, int head_dim) {
  float sum = 0;
  for (int d = lane_index(); d < head_dim; d += kWarp) sum = fmaf(vector[d], load_f32(other + d), sum);
  return warp_sum(sum);
}
template <typename T>
__device__ void add_scaled(float* vector, float factor, const T* other, int head_dim) {
  for (int d = lane_index(); d < head_dim; d += kWarp)
    vector[d] = fmaf(factor, load_f32(other + d), vector[d]);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) attention_simple_kernel(Simple<T> p) {
  RowHead at;
  if (!find_row(p.tokens, p.query_heads, at)) return;
  const int kv_head = at.head / (p.query_heads / p.kv_heads), dim = p.head_dim;
  float* query = warp_vector(0, 2, dim);
  float* out = warp_vector(1, 2, dim);
  load_vector(query, p.q + p.query_at(at.row, at.head), dim);
  clear_vector(out, dim);
  float maximum = -INFINITY, sum = 0;
  for (int64_t key = p.first_row[at.row]; key <= at.row; ++key) {
    const float score = p.scale * dot(query, p.k + p.key_at(key, kv_head), dim);
    if (score > maximum) {
      const float factor = expf(maximum - score);
      for (int d = lane_index(); d < dim; d += kWarp) out[d] *= factor;
      sum *= factor;
      maximum = score;
    }
    const float weight = expf(score - maximum);
    sum += weight;
    add_scaled(out, weight, p.v + p.key_at(key, kv_head), dim);
  }
  T* to = p.out + at.row * p.out_stride + at.head * dim;
  for (int d = lane_index(); d < dim; d += kWarp) store_f32(to + d, out[d] / sum);
  if (p.new_log_sum_exp != nullptr && lane_index() == 0)
    p.new_log_sum_exp[at.row * p.query_heads + at.head] = maximum + logf(sum);
}

// dq, and delta = sum(dout * out) for the kernel below.
template <typename T>
__global__ void __launch_bounds__(kThreads) attention_backward_queries_simple_kernel(Simple<T> p) {
  RowHead at;
  if (!find_row(p.tokens, p.query_heads, at)) return;
  const int kv_head = at.head / (p.query_heads / p.kv_heads), dim = p.head_dim;
  float* query = warp_vector(0, 3, dim);
  float* dout = warp_vector(1, 3, dim);
  float* dq = warp_vector(2, 3, dim);
  load_vector(query, p.q + p.query_at(at.row, at.head), dim);
  load_vector(dout, p.dout + p.query_at(at.row, at.head), dim);
  clear_vector(dq, dim);
  const float delta = dot(dout, p.out_rows + at.row * p.out_stride + at.head * dim, dim);
  const int64_t statistic = at.row * p.query_heads + at.head;
  if (lane_index() == 0) p.delta[statistic] = delta;
  for (int64_t key = p.first_row[at.row]; key <= at.row; ++key) {
    const int64_t kv = p.key_at(key, kv_head);
    const float weight = expf(p.scale * dot(query, p.k + kv, dim) - p.log_sum_exp[statistic]);
    const float gradient = weight * (dot(dout, p.v + kv, dim) - delta);
    add_scaled(dq, p.scale * gradient, p.k + kv, dim);
  }
  T* to = p.dq + p.query_at(at.row, at.head);
  for (int d = lane_index(); d < dim; d += kWarp) store_f32(to + d, dq[d]);
}

// dk and dv: a warp per row and key/value head, over the queries of all heads that use it.
template <typename T>
__global__ void __launch_bounds__(kThreads) attention_backward_keys_simple_kernel(Simple<T> p) {
  RowHead at;
  if (!find_row(p.tokens, p.kv_heads, at)) return;
  const int group = p.query_heads / p.kv_heads, dim = p.head_dim;
  float* key = warp_vector(0, 4, dim);
  float* value = warp_vector(1, 4, dim);
  float* dk = warp_vector(2, 4, dim);
  float* dv = warp_vector(3, 4, dim);
  load_vector(key, p.k + p.key_at(at.row, at.head), dim);
  load_vector(value, p.v + p.key_at(at.row, at.head), dim);
  clear_vector(dk, dim);
  clear_vector(dv, dim);
  const int64_t end = p.end_row[at.row];
  for (int head = at.head * group; head < (at.head + 1) * group; ++head)
    for (int64_t row = at.row; row < end; ++row) {
      const int64_t query = p.query_at(row, head), statistic = row * p.query_heads + head;
      const float weight = expf(p.scale * dot(key, p.q + query, dim) - p.log_sum_exp[statistic]);
      const float gradient = weight * (dot(value, p.dout + query, dim) - p.delta[statistic]);
      add_scaled(dv, weight, p.dout + query, dim);
      add_scaled(dk, p.scale * gradient, p.q + query, dim);
    }
  const int64_t to = p.key_at(at.row, at.head);
  for (int d = lane_index(); d < dim; d += kWarp) {
    store_f32(p.dk + to + d, dk[d]);
    store_f32(p.dv + to + d, dv[d]);
  }
}

// `vectors`: of D f32 that each warp needs.
LaunchShape shape_of(int64_t rows, int64_t heads, int64_t head_dim, int vectors) {
  return {.grid = blocks_for(rows * heads, kWarps),
          .block = kThreads,
          .shared_bytes = static_cast<size_t>(kWarps * vectors * head_dim) * sizeof(float)};
}

template <typename T>
void forward(CudaStream& stream, const AttentionArgs& args) {
  Simple<T> p{};
  p.q = args.q.as<T>();
  p.k = args.k.as<T>();
  p.v = args.v.as<T>();
  p.out = args.out.as<T>();
  p.new_log_sum_exp = args.log_sum_exp;
  p.first_row = args.segments.first_row;
  p.out_stride = args.out_stride != 0 ? args.out_stride : args.query_heads * args.head_dim;
  p.tokens = args.tokens;
  p.query_heads = static_cast<int>(args.query_heads);
  p.kv_heads = static_cast<int>(args.kv_heads);
  p.head_dim = static_cast<int>(args.head_dim);
  p.scale = args.scale;
  launch(stream, "attention_simple", shape_of(args.tokens, args.query_heads, args.head_dim, 2),
         attention_simple_kernel<T>, p);
}

template <typename T>
void backward(CudaStream& stream, const AttentionBackwardArgs& args) {
  Simple<T> p{};
  p.dout = args.dout.as<T>();
  p.q = args.q.as<T>();
  p.k = args.k.as<T>();
  p.v = args.v.as<T>();
  p.out_rows = args.out.as<T>();
  p.log_sum_exp = args.log_sum_exp;
  p.delta = static_cast<float*>(
      stream.scratch(static_cast<size_t>(args.tokens * args.query_heads) * sizeof(float)));
  p.first_row = args.segments.first_row;
  p.end_row = args.segments.end_row;
  p.dq = args.dq.as<T>();
  p.dk = args.dk.as<T>();
  p.dv = args.dv.as<T>();
  p.out_stride = args.out_stride != 0 ? args.out_stride : args.query_heads * args.head_dim;
  p.tokens = args.tokens;
  p.query_heads = static_cast<int>(args.query_heads);
  p.kv_heads = static_cast<int>(args.kv_heads);
  p.head_dim = static_cast<int>(args.head_dim);
  p.scale = args.scale;
  launch(stream, "attention_backward_queries_simple",
         shape_of(args.tokens, args.query_heads, args.head_dim, 3),
         attention_backward_queries_simple_kernel<T>, p);
  launch(stream, "attention_backward_keys_simple", shape_of(args.tokens, args.kv_heads, args.head_dim, 4),
         attention_backward_keys_simple_kernel<T>, p);
}

}  // namespace

void attention_simple(const OpContext& context, const AttentionArgs& args) {
  CudaStream& stream = cuda_stream(context);
  args.q.dtype == DType::kBF16 ? forward<BFloat16>(stream, args) : forward<float>(stream, args);
}

void attention_backward_simple(const OpContext& context, const AttentionBackwardArgs& args) {
  CudaStream& stream = cuda_stream(context);
  args.q.dtype == DType::kBF16 ? backward<BFloat16>(stream, args) : backward<float>(stream, args);
}

}  // namespace onggi::cuda

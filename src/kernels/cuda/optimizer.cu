// The gradient's norm and AdamW, over flat arrays.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kQuad = 4;  // elements of a 16-byte access

// The sum's order depends on the length alone: not on the device, which may have any number of SMs.
constexpr int64_t kMaxSumBlocks = 1024;
constexpr int64_t kQuadsPerThread = 8;

enum class Arrays { kAligned, kAny };  // to 16 bytes

// Elements [i, i + 4) of an array; zero beyond its end.
template <Arrays kArrays>
__device__ __forceinline__ float4 load_quad(const float* x, int64_t i, int64_t elements) {
  if (kArrays == Arrays::kAligned && i + kQuad <= elements) return *reinterpret_cast<const float4*>(x + i);
  float4 quad = make_float4(0, 0, 0, 0);
  if (i < elements) quad.x = x[i];
  if (i + 1 < elements) quad.y = x[i + 1];
  if (i + 2 < elements) quad.z = x[i + 2];
  if (i + 3 < elements) quad.w = x[i + 3];
  return quad;
}
template <Arrays kArrays>
__device__ __forceinline__ void store_quad(float* x, int64_t i, int64_t elements, const float4& quad) {
  if (kArrays == Arrays::kAligned && i + kQuad <= elements) {
    *reinterpret_cast<float4*>(x + i) = quad;
    return;
  }
  if (i < elements) x[i] = quad.x;
  if (i + 1 < elements) x[i + 1] = quad.y;
  if (i + 2 < elements) x[i + 2] = quad.z;
  if (i + 3 < elements) x[i + 3] = quad.w;
}

template <Arrays kArrays>
__global__ void __launch_bounds__(kThreads)
    square_sums_kernel(const float* x, int64_t elements, double* partial) {
  overlap_launches();
  const int64_t stride = int64_t{gridDim.x} * kThreads * kQuad;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kQuad; i < elements; i += stride) {
    const float4 quad = load_quad<kArrays>(x, i, elements);
    sum = fma(double{quad.x}, double{quad.x}, sum);
    sum = fma(double{quad.y}, double{quad.y}, sum);
    sum = fma(double{quad.z}, double{quad.z}, sum);
    sum = fma(double{quad.w}, double{quad.w}, sum);
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_partial_sums_kernel(const double* partial, int64_t count, double* result) {
  overlap_launches();
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) *result = sum;
}

// The scalars of one step, the same for all elements; those of clipping the device works out.
struct Step {
  const double* sum_of_squares;
  double max_norm;
  float beta1, beta2, rest1, rest2;  // rest = 1 - beta
  float decay;                       // 1 - learning_rate * weight_decay
  float rate;                        // learning_rate / (1 - beta1^step)
  float correction;                  // 1 / (1 - beta2^step)
  float epsilon;
};
Step make_step(const AdamWArgs& args) {
  const auto steps = static_cast<double>(args.step);
  return {.sum_of_squares = args.sum_of_squares,
          .max_norm = args.max_norm,
          .beta1 = args.beta1,
          .beta2 = args.beta2,
          .rest1 = 1.0f - args.beta1,
          .rest2 = 1.0f - args.beta2,
          .decay = static_cast<float>(1.0 - double{args.learning_rate} * args.weight_decay),
          .rate = static_cast<float>(args.learning_rate / (1.0 - std::pow(double{args.beta1}, steps))),
          .correction = static_cast<float>(1.0 / (1.0 - std::pow(double{args.beta2}, steps))),
          .epsilon = args.epsilon};
}

__device__ __forceinline__ float clipping_share(const Step& step) {
  if (step.sum_of_squares == nullptr) return 1;
  const double share = step.max_norm / (sqrt(*step.sum_of_squares) + 1e-6);
  return share < 1 ? static_cast<float>(share) : 1;
}

__device__ __forceinline__ void update(const Step& step, float scale, float gradient, float& w, float& m,
                                       float& v) {
  const float g = gradient * scale;
  m = step.beta1 * m + step.rest1 * g;
  v = step.beta2 * v + step.rest2 * (g * g);
  w = w * step.decay - step.rate * m / (sqrtf(v * step.correction) + step.epsilon);
}

struct AdamWArrays {
  float* weights;
  const float* gradient;
  float* first_moment;
  float* second_moment;
  int64_t elements;
};

template <Arrays kArrays>
__global__ void __launch_bounds__(kThreads) adamw_kernel(AdamWArrays arrays, Step step) {
  overlap_launches();
  const int64_t n = arrays.elements, i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kQuad;
  const float4 g = load_quad<kArrays>(arrays.gradient, i, n);
  float4 w = load_quad<kArrays>(arrays.weights, i, n);
  float4 m = load_quad<kArrays>(arrays.first_moment, i, n);
  float4 v = load_quad<kArrays>(arrays.second_moment, i, n);
  __shared__ float scale_of_block;  // fp64 roots and divisions are slow: once a block
  if (threadIdx.x == 0) scale_of_block = clipping_share(step);
  __syncthreads();
  const float scale = scale_of_block;
  update(step, scale, g.x, w.x, m.x, v.x);
  update(step, scale, g.y, w.y, m.y, v.y);
  update(step, scale, g.z, w.z, m.z, v.z);
  update(step, scale, g.w, w.w, m.w, v.w);
  store_quad<kArrays>(arrays.weights, i, n, w);
  store_quad<kArrays>(arrays.first_moment, i, n, m);
  store_quad<kArrays>(arrays.second_moment, i, n, v);
}

}  // namespace

// Bytes: 4 a element. The adapter of Qwen3-8B at R = 16 (43.6 M elements): 175 MB, 58 us at 3 TB/s; its fp64
// arithmetic is a tenth of that on an H100.
void sum_of_squares(const OpContext& context, const SumOfSquaresArgs& args) {
  CudaStream& stream = cuda_stream(context);
  const int64_t blocks =
      std::clamp<int64_t>(blocks_for(args.elements, kThreads * kQuad * kQuadsPerThread), 1, kMaxSumBlocks);
  auto* partial = static_cast<double*>(stream.scratch(static_cast<size_t>(blocks) * sizeof(double)));
  const auto kernel =
      is_vector_aligned(args.x) ? square_sums_kernel<Arrays::kAligned> : square_sums_kernel<Arrays::kAny>;
  launch(stream, "sum_of_squares",
         {.grid = static_cast<unsigned>(blocks), .block = kThreads, .overlap = Overlap::kWithPrevious},
         kernel, args.x, args.elements, partial);
  launch(stream, "sum_of_squares (sum)", {.grid = 1, .block = kThreads, .overlap = Overlap::kWithPrevious},
         add_partial_sums_kernel, partial, blocks, args.sum);
}

// Bytes: 28 a element (4 arrays read, 3 written). Qwen3-8B at R = 16: 1.22 GB, 407 us.
void adamw(const OpContext& context, const AdamWArgs& args) {
  const AdamWArrays arrays{args.weights, args.gradient, args.first_moment, args.second_moment, args.elements};
  const bool aligned = fits_vectors(0, args.weights, args.gradient, args.first_moment, args.second_moment);
  launch(cuda_stream(context), "adamw",
         {.grid = blocks_for(args.elements, kThreads * kQuad),
          .block = kThreads,
          .overlap = Overlap::kWithPrevious},
         aligned ? adamw_kernel<Arrays::kAligned> : adamw_kernel<Arrays::kAny>, arrays, make_step(args));
}

}  // namespace onggi::cuda

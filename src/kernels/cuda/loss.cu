// Cross-entropy: one block per row. A first pass over the row finds its maximum and the sum of its
// exponentials together ("online softmax", Milakov and Gimelshein 2018), a second one writes the gradient.
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 1024;  // with its registers, one block fills an SM: the fewest rows compete for L2
constexpr int kSumThreads = 256;
constexpr float kLog2E = 1.44269504f, kLn2 = 0.69314718f;
// Below every logit of use, and finite: differences of it with itself are zero.
constexpr float kLowest = -1e30f;

// sum over x of 2^(x log2 e - shift), where shift is the f32 product maximum * log2 e. The rounding of shift
// is a common factor of all terms.
struct RowSum {
  float maximum, shift, sum;
};

__device__ __forceinline__ float term(float x, float shift) { return exp2_approx(fmaf(x, kLog2E, -shift)); }

__device__ __forceinline__ RowSum add_terms(const RowSum& before, const float (&x)[kVector]) {
  float maximum = before.maximum;
#pragma unroll
  for (const float value : x) maximum = fmaxf(maximum, value);
  const float shift = maximum * kLog2E;
  float sum = 0;
#pragma unroll
  for (const float value : x) sum += term(value, shift);
  return {maximum, shift, before.sum * exp2_approx(before.shift - shift) + sum};
}

// Eight logits from column c on; -infinity beyond the row. Rows of kVectors are whole, aligned vectors.
enum class Rows { kVectors, kAny };
template <Rows kRows>
__device__ __forceinline__ void load_logits(const float* row, int64_t c, int64_t columns,
                                            float (&x)[kVector]) {
  if constexpr (kRows == Rows::kVectors) {
    load_8(row + c, x);
  } else {
#pragma unroll
    for (int i = 0; i < kVector; ++i) x[i] = c + i < columns ? row[c + i] : -INFINITY;
  }
}

template <Rows kRows>
__device__ __forceinline__ RowSum sum_row(const float* row, int64_t columns) {
  RowSum mine{kLowest, kLowest * kLog2E, 0};
#pragma unroll 2
  for (int64_t c = int64_t{threadIdx.x} * kVector; c < columns; c += kThreads * kVector) {
    float x[kVector];
    load_logits<kRows>(row, c, columns, x);
    mine = add_terms(mine, x);
  }
  const float maximum = block_max<kThreads>(mine.maximum), shift = maximum * kLog2E;
  return {maximum, shift, block_sum<kThreads>(mine.sum * exp2_approx(mine.shift - shift))};
}

// From the row's end backwards, since its end is what the first pass left in L2. dlogits may be the logits:
// each thread reads what it then writes.
template <Rows kRows, typename T>
__device__ __forceinline__ void write_gradient(const float* row, int64_t columns, float shift, float share,
                                               T* out) {
  constexpr int64_t kStride = kThreads * kVector;
  const int64_t first = int64_t{threadIdx.x} * kVector;
  const int64_t steps = first < columns ? (columns - first - 1) / kStride : -1;
#pragma unroll 2
  for (int64_t c = first + steps * kStride; c >= 0; c -= kStride) {
    float x[kVector];
    load_logits<kRows>(row, c, columns, x);
#pragma unroll
    for (float& value : x) value = term(value, shift) * share;
    if constexpr (kRows == Rows::kVectors) {
      store_8(out + c, x);
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        if (c + i < columns) store_f32(out + c + i, x[i]);
    }
  }
}

template <Rows kRows, typename T>
__global__ void __launch_bounds__(kThreads, 1) cross_entropy_kernel(CrossEntropyArgs args) {
  overlap_launches();
  const int64_t columns = args.vocabulary, begin = int64_t{blockIdx.x} * columns;
  const float* row = args.logits + begin;
  const int32_t label = args.labels[blockIdx.x];
  const float labelled = row[label];
  const RowSum total = sum_row<kRows>(row, columns);
  if (threadIdx.x == 0) {
    // What shift lost to rounding, in the base of e.
    const float correction = fmaf(total.maximum, -kLog2E, total.shift) * kLn2;
    args.losses[blockIdx.x] = (total.maximum - labelled) + (logf(total.sum) + correction);
  }
  if (args.dlogits.data == nullptr) return;
  T* out = static_cast<T*>(args.dlogits.data) + begin;
  const float share = args.gradient_scale / total.sum;
  write_gradient<kRows>(row, columns, total.shift, share, out);
  __syncthreads();  // the label's element was written by another thread
  if (threadIdx.x == 0)
    store_f32(out + label, fmaf(term(labelled, total.shift), share, -args.gradient_scale));
}

__global__ void __launch_bounds__(kSumThreads)
    add_losses_kernel(const float* losses, int64_t rows, double* loss_sum) {
  overlap_launches();
  double sum = 0;
  for (int64_t i = threadIdx.x; i < rows; i += kSumThreads) sum += losses[i];
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) *loss_sum += sum;
}

}  // namespace

// Bytes: M V (logits, and where the gradient is wanted logits again and dlogits). Qwen3-8B, M = 512, bf16
// gradient: 0.78 GB where L2 keeps nothing between the passes, 260 us at 3 TB/s.
void cross_entropy(const OpContext& context, const CrossEntropyArgs& args) {
  CudaStream& stream = cuda_stream(context);
  with_activation_type(args.dlogits.dtype, [&](auto type) {
    using T = typename decltype(type)::Type;
    const auto kernel = fits_vectors(args.vocabulary, args.logits, args.dlogits.data)
                            ? cross_entropy_kernel<Rows::kVectors, T>
                            : cross_entropy_kernel<Rows::kAny, T>;
    launch(stream, "cross_entropy",
           {.grid = blocks_for(args.rows, 1), .block = kThreads, .overlap = Overlap::kWithPrevious}, kernel,
           args);
  });
  if (args.loss_sum == nullptr || args.rows == 0) return;
  launch(stream, "cross_entropy (sum)", {.grid = 1, .block = kSumThreads, .overlap = Overlap::kWithPrevious},
         add_losses_kernel, args.losses, args.rows, args.loss_sum);
}

}  // namespace onggi::cuda

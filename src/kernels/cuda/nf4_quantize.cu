// NF4 encoding. Every rounding of blocks/nf4.cc happens here too, in the same precision: products and
// differences stand alone, so that no fused multiply-add can take their place.
#include <algorithm>
#include <array>
#include <string>

#include "blocks/nf4.h"
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nf4_quantize.h"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLanesPerBlock = kNf4BlockElements / kVector;
constexpr uint32_t kZeroIndices = 0x77777777;  // code 7 is zero

// The index of the nearest code value is the number of midpoints below x.
__device__ __forceinline__ uint32_t nearest_index(float x) {
  constexpr std::array<float, 15> kMidpoints = nf4_midpoints();
  uint32_t index = 0;
#pragma unroll
  for (int i = 0; i < 15; ++i) index += x > kMidpoints[i] ? 1 : 0;
  return index;
}

// Eight lanes per block of 64 values, eight values a lane.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    nf4_indices_kernel(const T* values, int64_t vectors, uint32_t* packed, float* absmax) {
  overlap_launches();
  const int64_t vector = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  float x[kVector] = {};
  if (vector < vectors) load_8(values + vector * kVector, x);
  float largest = 0;
#pragma unroll
  for (const float value : x) largest = fmaxf(largest, fabsf(value));
  largest = warp_max<kLanesPerBlock>(largest);
  if (vector >= vectors) return;
  uint32_t indices = kZeroIndices;
  if (largest != 0) {
    const float inverse = __fdiv_rn(1.0f, largest);
    indices = 0;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      // Within a byte the first element is in the high nibble.
      const int shift = 8 * (i / 2) + (i % 2 == 0 ? 4 : 0);
      indices |= nearest_index(__fmul_rn(x[i], inverse)) << shift;
    }
  }
  packed[vector] = indices;
  if (vector % kLanesPerBlock == 0) absmax[vector / kLanesPerBlock] = largest;
}

// A sum of f32 values in fp64, with what tells whether it is exact: the largest power of two of which all
// values are multiples. Where the sum is below 2^53 such units, no order of additions rounds at any step, so
// that a parallel sum is the sequential one.
struct ExactSum {
  double sum;
  int unit;  // exponent
};

constexpr int kNoUnit = 1 << 20;  // of sums of zeros

// x >= 0
__device__ __forceinline__ int unit_of(float x) {
  const uint32_t bits = __float_as_uint(x), exponent = bits >> 23, fraction = bits & 0x7FFFFF;
  if (bits == 0) return kNoUnit;
  if (exponent == 0) return -149 + __ffs(static_cast<int>(fraction)) - 1;
  const uint32_t significand = fraction | 0x800000;
  return static_cast<int>(exponent) - 150 + __ffs(static_cast<int>(significand)) - 1;
}

__device__ __forceinline__ ExactSum block_exact_sum(const ExactSum& mine) {
  return {block_sum<kThreads>(mine.sum), -block_max<kThreads>(-mine.unit)};
}

__global__ void __launch_bounds__(kThreads)
    absmax_sums_kernel(const float* absmax, int64_t blocks, ExactSum* partial) {
  overlap_launches();
  ExactSum mine{0, kNoUnit};
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < blocks;
       i += int64_t{gridDim.x} * kThreads) {
    mine.sum += absmax[i];
    mine.unit = min(mine.unit, unit_of(absmax[i]));
  }
  mine = block_exact_sum(mine);
  if (threadIdx.x == 0) partial[blockIdx.x] = mine;
}

// As Nf4Encoder adds: one after another. One thread adds what all load.
__device__ __noinline__ double sequential_sum(const float* absmax, int64_t blocks) {
  __shared__ float staged[kThreads];
  double sum = 0;
  for (int64_t begin = 0; begin < blocks; begin += kThreads) {
    const int here = static_cast<int>(min(blocks - begin, int64_t{kThreads}));
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < here) staged[threadIdx.x] = absmax[begin + threadIdx.x];
    __syncthreads();
    if (threadIdx.x != 0) continue;
    for (int i = 0; i < here; ++i) sum += staged[i];
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads)
    absmax_mean_kernel(const ExactSum* partial, int count, const float* absmax, int64_t blocks,
                       float* offset) {
  overlap_launches();
  ExactSum total{0, kNoUnit};
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    total.sum += partial[i].sum;
    total.unit = min(total.unit, partial[i].unit);
  }
  total = block_exact_sum(total);
  // The margin of two covers the rounding of a sum that was not exact.
  const bool exact = total.sum == 0 || total.sum < ldexp(1.0, total.unit + 52);
  double sum = total.sum;
  if (!exact) sum = sequential_sum(absmax, blocks);
  if (threadIdx.x == 0) *offset = static_cast<float>(__ddiv_rn(sum, static_cast<double>(blocks)));
}

struct DynamicCode {
  float values[256];
};

// As std::lower_bound over the code and then the nearer of two neighbours; between two, the even index.
__device__ __forceinline__ int nearest_dynamic(const float* code, float x) {
  int above = 0;
#pragma unroll
  for (int step = 128; step > 0; step /= 2)
    if (code[above + step - 1] < x) above += step;
  if (above == 255 && code[255] < x) return 255;
  if (above == 0) return 0;
  const float middle = __fmul_rn(__fadd_rn(code[above - 1], code[above]), 0.5f);
  if (x != middle) return x > middle ? above : above - 1;
  return above % 2 == 0 ? above : above - 1;
}

// One block per 256 absmaxes, which share a nested absmax.
__global__ void __launch_bounds__(kNf4NestedBlocks)
    absmax_q8_kernel(Nf4AbsmaxArgs args, DynamicCode dynamic_code) {
  overlap_launches();
  __shared__ float code[256];
  code[threadIdx.x] = dynamic_code.values[threadIdx.x];
  const int64_t block = int64_t{blockIdx.x} * kNf4NestedBlocks + threadIdx.x;
  const float difference = block < args.blocks ? __fsub_rn(args.absmax[block], *args.offset) : 0.0f;
  const float largest = block_max<kNf4NestedBlocks>(fmaxf(fabsf(difference), 0.0f));  // NaN does not count
  const float inverse = largest > 0 ? __fdiv_rn(1.0f, largest) : 0.0f;
  if (threadIdx.x == 0) args.nested_absmax[blockIdx.x] = largest;
  if (block < args.blocks)
    args.absmax_q8[block] = static_cast<uint8_t>(nearest_dynamic(code, __fmul_rn(difference, inverse)));
}

template <typename T>
void launch_indices(CudaStream& stream, const Nf4IndicesArgs& args) {
  const int64_t vectors = args.count / kVector;
  launch(stream, "nf4_indices",
         {.grid = blocks_for(vectors, kThreads), .block = kThreads, .overlap = Overlap::kWithPrevious},
         nf4_indices_kernel<T>, static_cast<const T*>(args.values), vectors,
         reinterpret_cast<uint32_t*>(args.packed + args.begin / 2),
         args.absmax + args.begin / kNf4BlockElements);
}

CudaStream& as_cuda_stream(Stream& stream) {
  ONGGI_CHECK(stream.device().kind == DeviceKind::kCuda, "a CUDA kernel on another device's stream");
  return static_cast<CudaStream&>(stream);
}

}  // namespace

// Bytes: of 16-bit weights 2.56 an element (2 read, 0.56 written). An 8B base: 17.8 GB, 6 ms at 3 TB/s.
void nf4_indices(Stream& stream, const Nf4IndicesArgs& args) {
  ONGGI_CHECK(args.begin % kNf4BlockElements == 0 && args.count % kNf4BlockElements == 0);
  ONGGI_CHECK(is_vector_aligned(args.values) && is_vector_aligned(args.packed));
  CudaStream& cuda = as_cuda_stream(stream);
  switch (args.dtype) {
    case DType::kF32:
      return launch_indices<float>(cuda, args);
    case DType::kF16:
      return launch_indices<Half>(cuda, args);
    case DType::kBF16:
      return launch_indices<BFloat16>(cuda, args);
    default:
      throw_internal_error("a plain dtype", __FILE__, __LINE__, std::string(dtype_name(args.dtype)));
  }
}

// Bytes: 9 a block of 64, read twice. Where the mean's sum may round (values that differ by more than 2^29 or
// so), one thread adds them all: 10 ms for the largest weight of an 8B base.
void nf4_quantize_absmax(Stream& stream, const Nf4AbsmaxArgs& args) {
  constexpr int64_t kMaxPartial = 256;
  ONGGI_CHECK(args.blocks >= 1);
  CudaStream& cuda = as_cuda_stream(stream);
  const auto partial_count = std::min<int64_t>(blocks_for(args.blocks, kThreads), kMaxPartial);
  auto* partial = static_cast<ExactSum*>(cuda.scratch(static_cast<size_t>(partial_count) * sizeof(ExactSum)));
  launch(cuda, "nf4_absmax_sums",
         {.grid = static_cast<unsigned>(partial_count), .block = kThreads, .overlap = Overlap::kWithPrevious},
         absmax_sums_kernel, args.absmax, args.blocks, partial);
  launch(cuda, "nf4_absmax_mean", {.grid = 1, .block = kThreads, .overlap = Overlap::kWithPrevious},
         absmax_mean_kernel, partial, static_cast<int>(partial_count), args.absmax, args.blocks, args.offset);
  DynamicCode code;
  std::copy(dynamic_code().begin(), dynamic_code().end(), code.values);
  launch(cuda, "nf4_absmax_q8",
         {.grid = blocks_for(args.blocks, kNf4NestedBlocks),
          .block = kNf4NestedBlocks,
          .overlap = Overlap::kWithPrevious},
         absmax_q8_kernel, args, code);
}

}  // namespace onggi::cuda

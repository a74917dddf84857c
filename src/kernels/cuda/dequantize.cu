#include <algorithm>
#include <bit>

#include "blocks/nf4.h"
#include "kernels/cuda/block_weight.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/nf4_tables.h"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVectorsPerThread = 4;  // in flight together

// Division of numbers below 2^31 by one divisor.
struct Divisor {
  explicit Divisor(int64_t divisor)
      : divisor(static_cast<uint32_t>(divisor)),
        shift(31 + std::bit_width(static_cast<uint64_t>(divisor - 1))) {
    multiplier =
        ((uint64_t{1} << shift) + static_cast<uint64_t>(divisor) - 1) / static_cast<uint64_t>(divisor);
  }
  __device__ __forceinline__ uint32_t divide(uint32_t n) const {
    return static_cast<uint32_t>(uint64_t{n} * multiplier >> shift);
  }
  uint32_t divisor;
  int shift;
  uint64_t multiplier;  // below 2^32 but for a divisor of 1: 2^31
};

struct LoraColumnsKernelArgs {
  LoraColumns lora;
  int64_t first_row, rows, columns, stride;
};
__device__ __forceinline__ void fill_lora_columns(const LoraColumnsKernelArgs& args, BFloat16* out) {
  const LoraColumns& lora = args.lora;
  const auto row_vectors = static_cast<uint32_t>(lora.width / 8);
  const auto vectors = static_cast<uint32_t>(args.rows) * row_vectors;
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < vectors; i += gridDim.x * kThreads) {
    const uint32_t row = i / row_vectors, column = (i - row * row_vectors) * 8;
    float values[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int64_t r = column + j - lora.first_column;
      const bool inside = lora.b != nullptr && r >= 0 && r < lora.rank;
      values[j] = inside ? lora.scale * lora.b[(args.first_row + row) * lora.rank + r] : 0.0f;
    }
    store_8(out + row * args.stride + args.columns + column, values);
  }
}
struct Nf4KernelArgs {
  const uint32_t* packed;  // eight values a word
  const uint8_t* absmax;
  const float* nested_absmax;
  const float* tables;
  float offset;
  int64_t first_vector;  // of eight values, counted from the weight's first
  uint32_t vectors;
  Divisor row_vectors;  // K / 8
  int64_t stride;       // elements
  LoraColumnsKernelArgs lora;
};

__device__ __forceinline__ void store_vector(float* out, const float (&values)[8]) { store_8(out, values); }
__device__ __forceinline__ void store_vector(BFloat16* out, const float (&values)[8]) {
  store_8(out, values);
}

__global__ void __launch_bounds__(kThreads)
    lora_columns_kernel(const LoraColumnsKernelArgs args, BFloat16* out) {
  grid_dependency_launch();
  grid_dependency_wait();
  fill_lora_columns(args, out);
}

// A thread makes vectors of eight values: neighbouring lanes read neighbouring words and write neighbouring
// vectors. Blocks of 64 share an absmax, which their eight lanes compute alike.
template <typename Out, Nf4Rounding kRounding>
__global__ void __launch_bounds__(kThreads) dequantize_nf4_kernel(const Nf4KernelArgs args, Out* out) {
  grid_dependency_launch();
  grid_dependency_wait();
  if constexpr (sizeof(Out) == 2) fill_lora_columns(args.lora, out);
  __shared__ float code[16];
  __shared__ float dynamic[256];
  if (threadIdx.x < 16) code[threadIdx.x] = args.tables[threadIdx.x];
  dynamic[threadIdx.x] = args.tables[16 + threadIdx.x];
  __syncthreads();
  constexpr uint32_t kTile = kThreads * kVectorsPerThread;
  for (uint32_t tile = blockIdx.x * kTile; tile < args.vectors; tile += gridDim.x * kTile) {
    uint32_t packed[kVectorsPerThread];
    uint32_t absmax[kVectorsPerThread];
    float nested[kVectorsPerThread];
#pragma unroll
    for (int i = 0; i < kVectorsPerThread; ++i) {
      const uint32_t vector = tile + i * kThreads + threadIdx.x;
      if (vector >= args.vectors) continue;
      const int64_t global = args.first_vector + vector, block = global / (kNf4BlockElements / 8);
      packed[i] = load_once_4(args.packed + global);
      absmax[i] = args.absmax[block];
      nested[i] = args.nested_absmax[block / kNf4NestedBlocks];
    }
#pragma unroll
    for (int i = 0; i < kVectorsPerThread; ++i) {
      const uint32_t vector = tile + i * kThreads + threadIdx.x;
      if (vector >= args.vectors) continue;
      // Two roundings, as in Nf4Tensor::absmax.
      const float scale = __fadd_rn(__fmul_rn(dynamic[absmax[i]], nested[i]), args.offset);
      float values[8];
#pragma unroll
      for (int byte = 0; byte < 4; ++byte) {
        values[2 * byte] = code[packed[i] >> (8 * byte + 4) & 15] * scale;
        values[2 * byte + 1] = code[packed[i] >> (8 * byte) & 15] * scale;
      }
      if constexpr (kRounding == Nf4Rounding::kToBf16 && sizeof(Out) == 4) {
        float rounded[8];
        unpack_bf16_8(pack_bf16_8(values), rounded);
#pragma unroll
        for (int j = 0; j < 8; ++j) values[j] = rounded[j];
      }
      const uint32_t row = args.row_vectors.divide(vector);
      const uint32_t column = vector - row * args.row_vectors.divisor;
      store_vector(out + row * args.stride + 8 * column, values);
    }
  }
}

template <typename In>
struct PlainKernelArgs {
  const In* weight;  // of the first row
  int64_t rows, columns, stride;
};

// K a multiple of 8 and all rows at multiples of 16 bytes.
template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads)
    convert_vectors_kernel(const PlainKernelArgs<In> args, Divisor row_vectors, Out* out) {
  const auto vectors = static_cast<uint32_t>(args.rows * (args.columns / 8));
  for (uint32_t vector = blockIdx.x * kThreads + threadIdx.x; vector < vectors;
       vector += gridDim.x * kThreads) {
    const uint32_t row = row_vectors.divide(vector);
    const uint32_t column = vector - row * row_vectors.divisor;
    float values[8];
    load_8(args.weight + int64_t{8} * vector, values);
    store_vector(out + row * args.stride + 8 * column, values);
  }
}
template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads) convert_kernel(const PlainKernelArgs<In> args, Out* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < args.rows * args.columns;
       i += step)
    store_f32(out + i / args.columns * args.stride + i % args.columns, load_f32(args.weight + i));
}

// Enough blocks to fill the GPU, each of which goes on to further tiles.
unsigned filling_blocks(const CudaStream& stream, int64_t tiles) {
  return static_cast<unsigned>(std::min<int64_t>(tiles, int64_t{8} * stream.multiprocessors()));
}

LoraColumnsKernelArgs lora_columns_of(const DequantizeArgs& args) {
  return {.lora = args.lora,
          .first_row = args.first_row,
          .rows = args.rows,
          .columns = args.weight.columns,
          .stride = args.stride};
}

// Reads N K / 2 bytes and writes 2 N K: Qwen3-8B's down_proj [4096, 12288], 126 MB, 48 us at 2.6 TB/s.
template <typename Out, Nf4Rounding kRounding>
void dequantize_nf4(CudaStream& stream, const DequantizeArgs& args, Out* out) {
  const int64_t row_vectors = args.weight.columns / 8, vectors = args.rows * row_vectors;
  ONGGI_CHECK(args.weight.columns % kNf4BlockElements == 0 && args.stride % 8 == 0);
  ONGGI_CHECK(vectors < int64_t{1} << 31, "rows are dequantised in pieces");
  const Nf4KernelArgs kernel_args{.packed = static_cast<const uint32_t*>(args.weight.data),
                                  .absmax = args.weight.nf4_absmax,
                                  .nested_absmax = args.weight.nf4_nested_absmax,
                                  .tables = nf4_tables(stream),
                                  .offset = args.weight.nf4_offset,
                                  .first_vector = args.first_row * row_vectors,
                                  .vectors = static_cast<uint32_t>(vectors),
                                  .row_vectors = Divisor(row_vectors),
                                  .stride = args.stride,
                                  .lora = lora_columns_of(args)};
  const unsigned blocks = filling_blocks(stream, blocks_for(vectors, kThreads * kVectorsPerThread));
  launch(stream, "dequantize_nf4", {.grid = blocks, .block = kThreads, .overlap = Overlap::kWithPrevious},
         dequantize_nf4_kernel<Out, kRounding>, kernel_args, out);
}

template <typename In, typename Out>
void convert(CudaStream& stream, const DequantizeArgs& args, Out* out) {
  const PlainKernelArgs<In> kernel_args{
      .weight = static_cast<const In*>(args.weight.data) + args.first_row * args.weight.columns,
      .rows = args.rows,
      .columns = args.weight.columns,
      .stride = args.stride};
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  const int64_t vectors = args.rows * args.weight.columns / 8;
  if (args.weight.columns % 8 == 0 && args.stride % 8 == 0 && aligned(kernel_args.weight) && aligned(out)) {
    ONGGI_CHECK(vectors < int64_t{1} << 31, "rows are converted in pieces");
    launch(stream, "convert_weight",
           {.grid = filling_blocks(stream, blocks_for(vectors, kThreads)), .block = kThreads},
           convert_vectors_kernel<In, Out>, kernel_args, Divisor(args.weight.columns / 8), out);
  } else {
    launch(stream, "convert_weight",
           {.grid = filling_blocks(stream, blocks_for(args.rows * args.weight.columns, kThreads)),
            .block = kThreads},
           convert_kernel<In, Out>, kernel_args, out);
  }
}

template <typename Out, Nf4Rounding kRounding>
void dequantize_to(CudaStream& stream, const DequantizeArgs& args, Out* out) {
  switch (args.weight.dtype) {
    case DType::kNF4:
      return dequantize_nf4<Out, kRounding>(stream, args, out);
    case DType::kBF16:
      return convert<BFloat16>(stream, args, out);
    case DType::kF16:
      return convert<Half>(stream, args, out);
    case DType::kF32:
      return convert<float>(stream, args, out);
    default:  // in tiles
      return dequantize_block_weight(
          stream,
          {.weight = args.weight, .first_row = args.first_row, .rows = args.rows, .stride = args.stride},
          out);
  }
}

}  // namespace

void dequantize(CudaStream& stream, const DequantizeArgs& args, __nv_bfloat16* out) {
  ONGGI_CHECK(args.lora.width == 0 ||
              (args.lora.width % 8 == 0 && args.stride % 8 == 0 && args.weight.columns % 8 == 0));
  dequantize_to<BFloat16, Nf4Rounding::kToBf16>(stream, args, out);
  if (args.lora.width == 0 || args.weight.dtype == DType::kNF4) return;
  // 2 N P bytes, 1 to 2 us.
  launch(stream, "lora_columns",
         {.grid = filling_blocks(stream, blocks_for(args.rows * args.lora.width / 8, kThreads)),
          .block = kThreads,
          .overlap = Overlap::kWithPrevious},
         lora_columns_kernel, lora_columns_of(args), out);
}

void dequantize_f32(CudaStream& stream, const DequantizeArgs& args, Nf4Rounding rounding, float* out) {
  if (rounding == Nf4Rounding::kExact) {
    dequantize_to<float, Nf4Rounding::kExact>(stream, args, out);
  } else {
    dequantize_to<float, Nf4Rounding::kToBf16>(stream, args, out);
  }
}

}  // namespace onggi::cuda

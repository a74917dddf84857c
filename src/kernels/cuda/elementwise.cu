// SwiGLU and its gradient, and dropout.
#include "base/random.h"
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/swiglu.cuh"

namespace onggi::cuda {
namespace {

constexpr int kThreads = 256;

// Where a thread of a row-wise kernel works: blocks go along a row, then to the next row.
struct RowPosition {
  int64_t row, column;
};
__device__ __forceinline__ RowPosition row_position(unsigned blocks_per_row, int64_t columns_per_block) {
  return {blockIdx.x / blocks_per_row, (blockIdx.x % blocks_per_row) * columns_per_block};
}

constexpr int kSwiGluVectors = 2;  // per thread and array: 64 bytes of bf16 on their way
constexpr int64_t kSwiGluColumns = int64_t{kSwiGluVectors} * kThreads * kVector;

template <typename T>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(SwiGluArgs args, unsigned blocks_per_row) {
  overlap_launches();
  const RowPosition position = row_position(blocks_per_row, kSwiGluColumns);
  const T* gate_row = static_cast<const T*>(args.gate.data) + position.row * args.width;
  const T* up_row = static_cast<const T*>(args.up.data) + position.row * args.width;
  T* out_row = static_cast<T*>(args.out.data) + position.row * args.out_stride;
  float gate[kSwiGluVectors][kVector], up[kSwiGluVectors][kVector];
#pragma unroll
  for (int v = 0; v < kSwiGluVectors; ++v) {
    const int64_t column = position.column + (v * kThreads + static_cast<int>(threadIdx.x)) * kVector;
    if (column >= args.width) continue;
    load_8(gate_row + column, gate[v]);
    load_8(up_row + column, up[v]);
  }
#pragma unroll
  for (int v = 0; v < kSwiGluVectors; ++v) {
    const int64_t column = position.column + (v * kThreads + static_cast<int>(threadIdx.x)) * kVector;
    if (column >= args.width) continue;
#pragma unroll
    for (int i = 0; i < kVector; ++i) gate[v][i] *= sigmoid<T>(gate[v][i]) * up[v][i];
    store_8(out_row + column, gate[v]);
  }
}

__global__ void __launch_bounds__(kThreads) swiglu_plain_kernel(SwiGluArgs args, unsigned blocks_per_row) {
  overlap_launches();
  const RowPosition position = row_position(blocks_per_row, kThreads);
  const int64_t column = position.column + threadIdx.x, i = position.row * args.width + column;
  if (column >= args.width) return;
  const float gate = load_any(args.gate, i);
  store_any(args.out, position.row * args.out_stride + column,
            gate * sigmoid<float>(gate) * load_any(args.up, i));
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(SwiGluBackwardArgs args, unsigned blocks_per_row) {
  overlap_launches();
  const RowPosition position = row_position(blocks_per_row, kThreads * kVector);
  const int64_t column = position.column + threadIdx.x * kVector, i = position.row * args.width + column;
  if (column >= args.width) return;
  float dout[kVector], gate[kVector], up[kVector];
  load_8(static_cast<const T*>(args.dout.data) + i, dout);
  load_8(static_cast<const T*>(args.gate.data) + i, gate);
  load_8(static_cast<const T*>(args.up.data) + i, up);
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    const GateUp gradient = swiglu_gradient<T>(dout[j], gate[j], up[j]);
    gate[j] = gradient.gate;
    up[j] = gradient.up;
  }
  store_8(static_cast<T*>(args.dgate.data) + i, gate);
  store_8(static_cast<T*>(args.dup.data) + position.row * args.dup_stride + column, up);
}

__global__ void __launch_bounds__(kThreads)
    swiglu_backward_plain_kernel(SwiGluBackwardArgs args, unsigned blocks_per_row) {
  overlap_launches();
  const RowPosition position = row_position(blocks_per_row, kThreads);
  const int64_t column = position.column + threadIdx.x, i = position.row * args.width + column;
  if (column >= args.width) return;
  const GateUp gradient =
      swiglu_gradient<float>(load_any(args.dout, i), load_any(args.gate, i), load_any(args.up, i));
  store_any(args.dgate, i, gradient.gate);
  store_any(args.dup, position.row * args.dup_stride + column, gradient.up);
}

// What decides a mask: kept where a draw of 16 bits is at least `threshold`.
struct DropoutRule {
  uint64_t seed, stream;
  const uint64_t* first_stream;
  uint32_t threshold;
  float kept_share;
};
DropoutRule dropout_rule(const DropoutArgs& args) {
  return {args.seed, args.stream, args.first_stream,
          static_cast<uint32_t>(std::lround(double{args.probability} * 65536.0)), 1.0f - args.probability};
}

// Eight elements, all decided by one philox block.
__device__ __forceinline__ void drop_8(const DropoutRule& rule, int64_t block, float (&values)[kVector]) {
  const uint64_t stream = rule.stream + (rule.first_stream == nullptr ? 0 : *rule.first_stream);
  const auto words = philox(rule.seed, stream, static_cast<uint64_t>(block));
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const uint32_t draw = (words[i / 2] >> (16 * (i % 2))) & 0xFFFF;
    values[i] = draw >= rule.threshold ? values[i] / rule.kept_share : 0.0f;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(const T* x, int64_t blocks, DropoutRule rule, Output output, T* out) {
  overlap_launches();
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (block >= blocks) return;
  float values[kVector];
  load_8(x + block * kVector, values);
  drop_8(rule, block, values);
  if (output == Output::kAccumulate) {
    float before[kVector];
    load_8(out + block * kVector, before);
#pragma unroll
    for (int i = 0; i < kVector; ++i) values[i] += before[i];
  }
  store_8(out + block * kVector, values);
}

__global__ void __launch_bounds__(kThreads)
    dropout_plain_kernel(ActivationView x, int64_t elements, DropoutRule rule, Output output,
                         Activation out) {
  overlap_launches();
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  float values[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const int64_t element = block * kVector + i;
    values[i] = element < elements ? load_any(x, element) : 0.0f;
  }
  drop_8(rule, block, values);
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const int64_t element = block * kVector + i;
    if (element >= elements) continue;
    const float before = output == Output::kAccumulate ? load_any(out, element) : 0.0f;
    store_any(out, element, before + values[i]);
  }
}

LaunchShape shape_for(int64_t blocks) {
  return {.grid = blocks_for(blocks, 1), .block = kThreads, .overlap = Overlap::kWithPrevious};
}

}  // namespace

// Bytes: T F (gate + up + out). Qwen3-8B, T = 4096, bf16: 302 MB, 101 us at 3 TB/s.
void swiglu(const OpContext& context, const SwiGluArgs& given) {
  CudaStream& stream = cuda_stream(context);
  SwiGluArgs args = given;
  if (args.out_stride == 0) args.out_stride = args.width;
  if (args.out_stride == args.width) {  // one long row
    args.width = args.out_stride = args.tokens * args.width;
    args.tokens = args.width == 0 ? 0 : 1;
  }
  if (args.gate.dtype != args.up.dtype || args.gate.dtype != args.out.dtype ||
      args.out_stride % kVector != 0 ||
      !fits_vectors(args.width, args.gate.data, args.up.data, args.out.data)) {
    const unsigned per_row = blocks_for(args.width, kThreads);
    return launch(stream, "swiglu", shape_for(args.tokens * per_row), swiglu_plain_kernel, args, per_row);
  }
  with_activation_type(args.gate.dtype, [&](auto type) {
    const unsigned per_row = blocks_for(args.width, kSwiGluColumns);
    launch(stream, "swiglu", shape_for(args.tokens * per_row), swiglu_kernel<typename decltype(type)::Type>,
           args, per_row);
  });
}

// Bytes: T F (dout + gate + up + dgate + dup). Qwen3-8B, T = 4096, bf16: 503 MB, 168 us.
void swiglu_backward(const OpContext& context, const SwiGluBackwardArgs& given) {
  CudaStream& stream = cuda_stream(context);
  SwiGluBackwardArgs args = given;
  if (args.dup_stride == 0) args.dup_stride = args.width;
  if (args.dup_stride == args.width) {  // one long row
    args.width = args.dup_stride = args.tokens * args.width;
    args.tokens = args.width == 0 ? 0 : 1;
  }
  const DType dtype = args.dout.dtype;
  if (args.gate.dtype != dtype || args.up.dtype != dtype || args.dgate.dtype != dtype ||
      args.dup.dtype != dtype || args.dup_stride % kVector != 0 ||
      !fits_vectors(args.width, args.dout.data, args.gate.data, args.up.data, args.dgate.data,
                    args.dup.data)) {
    const unsigned per_row = blocks_for(args.width, kThreads);
    return launch(stream, "swiglu_backward", shape_for(args.tokens * per_row), swiglu_backward_plain_kernel,
                  args, per_row);
  }
  with_activation_type(dtype, [&](auto type) {
    const unsigned per_row = blocks_for(args.width, kThreads * kVector);
    launch(stream, "swiglu_backward", shape_for(args.tokens * per_row),
           swiglu_backward_kernel<typename decltype(type)::Type>, args, per_row);
  });
}

// Bytes: elements (x + out, out twice where it is added to); about 25 instructions an element, ten rounds of
// philox shared by eight. Qwen3-8B, T = 4096, bf16: 67 MB, 22 us.
void dropout(const OpContext& context, const DropoutArgs& args) {
  CudaStream& stream = cuda_stream(context);
  const LaunchShape shape = shape_for(blocks_for(args.elements, kThreads * kVector));
  const DropoutRule rule = dropout_rule(args);
  if (args.x.dtype != args.out.dtype || !fits_vectors(args.elements, args.x.data, args.out.data)) {
    return launch(stream, "dropout", shape, dropout_plain_kernel, args.x, args.elements, rule, args.output,
                  args.out);
  }
  with_activation_type(args.x.dtype, [&](auto type) {
    using T = typename decltype(type)::Type;
    launch(stream, "dropout", shape, dropout_kernel<T>, static_cast<const T*>(args.x.data),
           args.elements / kVector, rule, args.output, static_cast<T*>(args.out.data));
  });
}

}  // namespace onggi::cuda

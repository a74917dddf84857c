// What every .cu file of the kernels starts from: launching, and the helpers of device code. Include headers
// of ours by their full path ("kernels/cuda/ptx.cuh"): the tests put their own ptx.cuh before it and compile
// the same sources for the CPU. Files that need more than ptx.cuh offers (Hopper's wgmma and TMA) are named
// *_sm90.cu; what they include (hopper.cuh, hopper_rows.cuh) has its twin there.
//
//   __global__ void __launch_bounds__(256) scale_kernel(const float* x, int64_t n, float* out) { ... }
//   launch(stream, "scale", {.grid = blocks_for(n, 256), .block = 256}, scale_kernel, x, n, out);
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "base/error.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/cuda/warp.cuh"

namespace onggi {

// Whether a kernel may start while the one before it in the stream still runs (programmatic dependent launch,
// sm_90): its prologue overlaps the other's end, and it calls grid_dependency_wait() before it reads or
// writes what others touch.
enum class Overlap { kNone, kWithPrevious };

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic shared memory, up to CudaStream::max_shared_bytes()
  Overlap overlap = Overlap::kNone;
  unsigned cluster_y =
      1;  // so many blocks along y, up to 8, form a cluster (sm_90): a divisor of the grid's y
};

// Blocks of `per_block` that cover n, as a grid's x.
inline unsigned blocks_for(int64_t n, int64_t per_block) {
  return static_cast<unsigned>((n + per_block - 1) / per_block);
}

// Throws MachineError "... while launching the kernel <op> (grid ..., block ..., shared bytes ...): <call>
// failed: ...".
[[noreturn]] void throw_launch_error(cudaError_t status, const char* op, const LaunchShape& shape);

// Queues kernel(arguments...) on the stream. `op` is a literal that names the kernel to people. A grid of no
// blocks is no work. MachineError where the launch is refused; what goes wrong while it runs shows at a later
// call on the stream.
template <typename... Parameters, typename... Arguments>
void launch(CudaStream& stream, const char* op, const LaunchShape& shape, void (*kernel)(Parameters...),
            Arguments&&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  stream.activate();
  stream.note_op(op);
  // Asked for at any size: what a kernel has unasked is shared with its static arrays. The stream remembers.
  if (shape.shared_bytes > 0) {
    stream.allow_shared_memory(reinterpret_cast<const void*>(kernel), shape.shared_bytes);
  }
  // Kernels that overlap share a multiprocessor, which must be empty before it divides its memory anew: all
  // ask for the same division.
  if (shape.overlap == Overlap::kWithPrevious)
    stream.prefer_shared_memory(reinterpret_cast<const void*>(kernel));
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (shape.overlap == Overlap::kWithPrevious && stream.compute_capability() >= 90) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster_y > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {1, shape.cluster_y, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream.handle();
  config.attrs = attributes;
  config.numAttrs = count;
  const cudaError_t status =
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...);
  if (status != cudaSuccess) throw_launch_error(status, op, shape);
}

}  // namespace onggi

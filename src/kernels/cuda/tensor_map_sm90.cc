// Describes tensors to Hopper's copy engine. The function that encodes them belongs to the driver and is
// asked for at run time: the program does not link the driver.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include "base/error.h"
#include "device/cuda_stream.h"
#include "kernels/cuda/tensor_map.h"

namespace onggi {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                            CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  constexpr const char* kName = "cuTensorMapEncodeTiled";
#if CUDART_VERSION >= 12050
  constexpr unsigned kSince = 12000;  // CUDA 12.0
  check_cuda(cudaGetDriverEntryPointByVersion(kName, &function, kSince, cudaEnableDefault, &found),
             "cudaGetDriverEntryPointByVersion", kName);
#else  // deprecated since
  check_cuda(cudaGetDriverEntryPoint(kName, &function, cudaEnableDefault, &found), "cudaGetDriverEntryPoint",
             kName);
#endif
  ONGGI_CHECK(found == cudaDriverEntryPointSuccess && function != nullptr,
              "drivers for Hopper encode tensor maps");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

TensorMap make_tensor_map(const void* data, const TensorShape& shape) {
  static const Encode encode = find_encode();
  constexpr cuuint32_t kColumns = 64;
  constexpr cuuint64_t kBytes = 2;  // of an element
  const auto width = static_cast<cuuint64_t>(shape.width), heads = static_cast<cuuint64_t>(shape.heads);
  const cuuint64_t sizes[] = {width, heads, static_cast<cuuint64_t>(shape.rows)};
  const cuuint64_t strides[] = {width * kBytes, heads * width * kBytes};
  const cuuint32_t box[] = {kColumns, 1, static_cast<cuuint32_t>(shape.box_rows)};
  const cuuint32_t steps[] = {1, 1, 1};
  TensorMap map;
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(data), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  ONGGI_CHECK(result == CUDA_SUCCESS, "a tensor map has valid sizes and strides");
  return map;
}

}  // namespace onggi

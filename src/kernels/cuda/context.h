// The stream of an op that the CUDA table runs, for files that launch no kernels of their own too.
#pragma once

#include "base/error.h"
#include "device/cuda_stream.h"
#include "kernels/ops/context.h"

namespace onggi {

inline CudaStream& cuda_stream(const OpContext& context) {
  ONGGI_CHECK(context.stream.device().kind == DeviceKind::kCuda, "a CUDA op on another device's stream");
  return static_cast<CudaStream&>(context.stream);
}

}  // namespace onggi

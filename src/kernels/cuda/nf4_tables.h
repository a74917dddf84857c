// The tables of NF4 in the device's memory, one copy for a stream.
#pragma once

#include <algorithm>
#include <array>
#include <memory>

#include "blocks/nf4.h"
#include "device/cuda_stream.h"

namespace onggi::cuda {

struct Nf4Tables {
  explicit Nf4Tables(CudaStream& stream) : memory(stream.allocate(sizeof(float) * 272)) {
    std::array<float, 272> values;
    std::copy(kNf4Code.begin(), kNf4Code.end(), values.begin());
    std::copy(dynamic_code().begin(), dynamic_code().end(), values.begin() + 16);
    stream.copy_in(memory.data(), values.data(), sizeof values);
  }
  Buffer memory;
};

// f32 [16 + 256]: kNf4Code, dynamic_code(). Made at the first use, which must not be while recording.
inline const float* nf4_tables(CudaStream& stream) {
  return stream.attachment<Nf4Tables>([&] { return std::make_shared<Nf4Tables>(stream); }).memory.as<float>();
}

}  // namespace onggi::cuda

// Numbers by which the blocks of a launch find out which of them comes last, or what the others have made.
#pragma once

#include <cstddef>
#include <memory>

#include "device/cuda_stream.h"

namespace onggi::cuda {

// kCount numbers in the device's memory, a set for each stream and Owner; 0 at first. Launches leave counters
// as they find them. Made at the first use, which must not be while recording.
template <typename Owner, size_t kCount, typename T = unsigned>
T* arrivals(CudaStream& stream) {
  struct Counters {
    Buffer memory;
  };
  return stream
      .attachment<Counters>([&] {
        auto made = std::make_shared<Counters>();
        made->memory = stream.allocate(kCount * sizeof(T));
        stream.fill_zero(made->memory.data(), made->memory.bytes());
        return made;
      })
      .memory.template as<T>();
}

}  // namespace onggi::cuda

// Counters by which the blocks of a launch find out which of them comes last.
#pragma once

#include <cstddef>
#include <memory>

#include "device/cuda_stream.h"

namespace onggi::cuda {

// kCount counters in the device's memory, a set for each stream and Owner; 0 between launches, which leave
// them as they find them. Made at the first use, which must not be while recording.
template <typename Owner, size_t kCount>
unsigned* arrivals(CudaStream& stream) {
  struct Counters {
    Buffer memory;
  };
  return stream
      .attachment<Counters>([&] {
        auto made = std::make_shared<Counters>();
        made->memory = stream.allocate(kCount * sizeof(unsigned));
        stream.fill_zero(made->memory.data(), made->memory.bytes());
        return made;
      })
      .memory.template as<unsigned>();
}

}  // namespace onggi::cuda

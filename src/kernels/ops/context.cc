#include "kernels/ops/context.h"

#include "base/error.h"

namespace onggi {

std::byte* Scratch::get(int thread, size_t bytes) {
  constexpr size_t kAlign = 64;
  ONGGI_CHECK(thread >= 0 && static_cast<size_t>(thread) < regions_.size());
  Region& region = regions_[static_cast<size_t>(thread)];
  if (region.size < bytes + kAlign) {
    region.memory.reset();  // first, so that old and new do not add up
    region.size = bytes + kAlign;
    region.memory.reset(new std::byte[region.size]);
  }
  const auto address = reinterpret_cast<uintptr_t>(region.memory.get());
  return region.memory.get() + ((address + kAlign - 1) / kAlign * kAlign - address);
}

size_t Scratch::total_bytes() const {
  size_t total = 0;
  for (const auto& region : regions_) total += region.size;
  return total;
}

}  // namespace onggi

#include "model/inference.h"

namespace onggi {

void* InferenceBuffers::grow(std::vector<Buffer>& slots, int slot, size_t bytes,
                             Buffer (Stream::*allocate)(size_t)) {
  if (slots.size() <= static_cast<size_t>(slot)) slots.resize(static_cast<size_t>(slot) + 1);
  Buffer& memory = slots[static_cast<size_t>(slot)];
  if (memory.bytes() < bytes) {
    recordings_.clear();
    memory.reset();  // first, so that old and new do not add up
    memory = (stream_->*allocate)(bytes);
  }
  return memory.data();
}

void* InferenceBuffers::get(int slot, int64_t bytes) {
  return grow(slots_, slot, static_cast<size_t>(bytes), &Stream::allocate);
}

void* InferenceBuffers::get_host(int slot, int64_t bytes) {
  return grow(host_slots_, slot, static_cast<size_t>(bytes), &Stream::allocate_host);
}

uint64_t InferenceBuffers::bytes() const {
  uint64_t total = 0;
  for (const std::vector<Buffer>* slots : {&slots_, &host_slots_})
    for (const Buffer& slot : *slots) total += slot.bytes();
  return total;
}

}  // namespace onggi

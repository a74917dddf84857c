// What every op gets besides its own arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "device/stream.h"

namespace onggi {

// Working memory of kernels: one region per thread, grown on demand and kept, so that a steady loop does not
// allocate. What a region holds lasts until the next op of that thread.
class Scratch {
 public:
  explicit Scratch(int threads) : regions_(static_cast<size_t>(threads) + 1) {}
  // At least `bytes`, aligned to 64. Not initialised.
  std::byte* get(int thread, size_t bytes);
  // All bytes held, for the memory plan.
  size_t total_bytes() const;

 private:
  struct Region {
    std::unique_ptr<std::byte[]> memory;
    size_t size = 0;
  };
  std::vector<Region> regions_;
};

// Explicit, never global: who computes owns one. Scratch has one region per pool thread plus a last one,
// index threads.size(), for data that all threads share during one op (activations rounded once).
// All arrays of an op lie in the memory of the stream's device, except where an argument says "host".
struct OpContext {
  ThreadPool& threads;
  Scratch& scratch;
  Stream& stream = cpu_stream();
};

// Arithmetic of matrix products; accumulation is fp32 in both.
enum class Precision {
  kF32,   // inputs in fp32: the reference
  kFast,  // inputs rounded to bf16; for block-quantised weights and few tokens the CPU rounds them to int8
          // with a scale per block. On a GPU activations are stored in bf16 between the ops too.
};

// What an op does with what its output already holds.
enum class Output { kOverwrite, kAccumulate };

// Devices without row padding (OpTable::row_padding) get dense arrays: `stride` is 0 or the width.
inline void check_dense(int64_t stride, int64_t width) {
  ONGGI_CHECK(stride == 0 || stride == width, "rows are dense on this device");
}

}  // namespace onggi

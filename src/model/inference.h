// The infer mode: sequences with new tokens each, over a paged KV cache.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/model.h"

namespace onggi {

inline constexpr int32_t kKvPageTokens = 32;  // P

// The pool of KV pages of a model: each page holds P tokens of every layer.
class KvCache {
 public:
  // Allocates pages * page_bytes at once. dtype: kF32, kF16 or kBF16.
  KvCache(const ModelConfig& config, int64_t pages, DType dtype);
  static uint64_t page_bytes(const ModelConfig& config, DType dtype);

  int64_t pages() const { return pages_; }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  // A page, or -1 when none is free.
  int32_t take_page();
  void give_back(int32_t page);
  KvLayer layer(int64_t index) const;
  uint64_t bytes() const { return bytes_; }

 private:
  DType dtype_;
  int64_t pages_;
  int64_t layer_elements_;  // pages * P * Hkv * D
  uint64_t bytes_;
  std::unique_ptr<std::byte[]> memory_;
  std::vector<int32_t> free_;
};

// One sequence's place in the cache. Owns its pages; returns them when destroyed.
class KvSequence {
 public:
  explicit KvSequence(KvCache& cache) : cache_(&cache) {}
  KvSequence(KvSequence&& other) noexcept;
  KvSequence& operator=(KvSequence&&) = delete;
  KvSequence(const KvSequence&) = delete;
  ~KvSequence();

  // Makes room for tokens up to `length`; false (nothing changed) when the cache has not enough free pages.
  bool reserve(int64_t length);
  // Forgets tokens from `length` on and returns whole pages.
  void truncate(int64_t length);
  int64_t length() const { return length_; }
  void advance(int64_t tokens) { length_ += tokens; }
  const int32_t* pages() const { return pages_.data(); }

 private:
  KvCache* cache_;
  std::vector<int32_t> pages_;
  int64_t length_ = 0;
};

// The new tokens of one sequence in a pass.
struct SequenceInput {
  KvSequence* sequence;             // reserve() was called for its new length
  std::span<const int32_t> tokens;  // at least one
  enum class Logits { kNone, kLast, kAll } logits = Logits::kLast;
};

// Working memory of passes, grown to the largest pass so far and kept.
class InferenceBuffers {
 public:
  float* get(int slot, int64_t elements);
  uint64_t bytes() const;

 private:
  std::vector<std::vector<float>> slots_;
};

// Runs the new tokens of all sequences through the model in one pass, appends them to the cache (sequence
// lengths advance), and returns the logits, f32 [rows, V], in the order of the inputs: one row for kLast, all
// rows for kAll. The memory is the buffers'; it lasts until the next call.
const float* infer(const Model& model, const Compute& compute, KvCache& cache,
                   std::span<const SequenceInput> inputs, InferenceBuffers& buffers);

// Rows of logits that infer() returns for these inputs.
int64_t logit_rows(std::span<const SequenceInput> inputs);

}  // namespace onggi

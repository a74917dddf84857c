// The infer mode: sequences with new tokens each, over a paged KV cache.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/model.h"
#include "model/recordings.h"

namespace onggi {

inline constexpr int32_t kKvPageTokens = 32;  // P

// The pool of KV pages of a model: each page holds P tokens of every layer.
class KvCache {
 public:
  // Allocates pages * page_bytes at once on the stream's device. dtype: kF32, kF16 or kBF16.
  KvCache(const ModelConfig& config, int64_t pages, DType dtype, Stream& stream = cpu_stream());
  static uint64_t page_bytes(const ModelConfig& config, DType dtype);

  int64_t pages() const { return pages_; }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  // A page, or -1 when none is free.
  int32_t take_page();
  void give_back(int32_t page);
  KvLayer layer(int64_t index) const;
  // Copies a page of every layer.
  void copy_page(int32_t from, int32_t to);
  uint64_t bytes() const { return bytes_; }

 private:
  Stream& stream_;
  DType dtype_;
  int64_t pages_;
  int64_t layers_;
  int64_t layer_elements_;  // pages * P * Hkv * D
  uint64_t bytes_;
  Buffer memory_;
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
  std::span<const int32_t> pages() const { return pages_; }

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

// How large a pass is.
struct InferenceShape {
  int64_t tokens = 0;  // T, of all sequences
  int64_t rows = 0;    // of logits, M; less than tokens
  int64_t rank = 0;    // R, of the adapter; 0: none
};

// Working memory of passes on one device, grown to the largest pass so far and kept; and recordings of decode
// passes, which are the same work each time but for what lies in this memory.
class InferenceBuffers {
 public:
  explicit InferenceBuffers(Stream& stream = cpu_stream()) : stream_(&stream) {}

  // At least `bytes` of slot `slot`, on the device or (host slots) where both sides reach it. Growing a slot
  // drops the recordings, which hold addresses.
  void* get(int slot, int64_t bytes);
  void* get_host(int slot, int64_t bytes);
  uint64_t bytes() const;
  // What bytes() comes to after passes up to this shape, but for the tables of pages and likeliest tokens.
  static uint64_t bytes_for(const ModelConfig& config, const ActivationFormat& format,
                            const InferenceShape& shape);

  // A decode pass that may be recorded.
  struct PassKey {
    int64_t sequences, longest, page_stride, wanted, top_logits;
    const void* head;  // the output matrix: answers and embeddings have different ones
    auto operator<=>(const PassKey&) const = default;
  };
  Recordings<PassKey>& recordings() { return recordings_; }

 private:
  void* grow(std::vector<Buffer>& slots, int slot, size_t bytes, Buffer (Stream::*allocate)(size_t));

  Stream* stream_;
  std::vector<Buffer> slots_, host_slots_;
  // Users come and go, and contexts grow: what is recorded follows them.
  Recordings<PassKey> recordings_{
      {.runs_before = 1, .most = 64, .when_full = RecordingRules::WhenFull::kReplaceUnused}};
};

// What the host has to do anyway while a pass is computed: called once, when its work is queued; before,
// where the host itself computes. Empty: nothing.
using Meanwhile = std::function<void()>;

// Runs the new tokens of all sequences through the model in one pass, appends them to the cache (sequence
// lengths advance), and returns the logits, f32 [rows, V] in host memory, in the order of the inputs: one row
// for kLast, all rows for kAll. The memory is the buffers'; it lasts until the next call.
const float* infer(const Model& model, const Compute& compute, KvCache& cache,
                   std::span<const SequenceInput> inputs, InferenceBuffers& buffers,
                   const Meanwhile& meanwhile = {});

// The most likely tokens of each row of logits, in host memory; lasts until the next call.
struct TopLogits {
  int64_t count = 0;                   // k
  const float* values = nullptr;       // f32 [rows, k], descending
  const int32_t* ids = nullptr;        // i32 [rows, k]
  const float* log_sum_exp = nullptr;  // f32 [rows]
};
// As infer(), where the largest `count` logits of each row (at most kMaxTopLogits) are all that is wanted: on
// a GPU the others never leave it. Only for devices whose table has top_logits.
TopLogits infer_top(const Model& model, const Compute& compute, KvCache& cache,
                    std::span<const SequenceInput> inputs, InferenceBuffers& buffers, int64_t count,
                    const Meanwhile& meanwhile = {});

// A whole row f32 [V] of the logits of the last infer_top(), in host memory until the next call.
const float* logits_row(const Model& model, const Compute& compute, InferenceBuffers& buffers, int64_t row);

// Rows of logits that infer() returns for these inputs.
int64_t logit_rows(std::span<const SequenceInput> inputs);

}  // namespace onggi

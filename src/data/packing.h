// Samples side by side in one batch without padding, and the order in which an epoch visits them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "data/samples.h"

namespace onggi {

// T tokens of S samples, one after the other. Attention and positions start anew at each segment.
struct PackedBatch {
  std::vector<int32_t> tokens;  // [T]
  // [T] already shifted: labels[t] is the target of position t (the token at t + 1 of the same sample),
  // kNoLabel = none.
  std::vector<int32_t> labels;
  std::vector<int32_t> segment_starts;  // [S + 1], the last is T
  std::vector<uint32_t> samples;        // [S] indices of the samples

  size_t label_count() const;
};

// The batch of exactly these samples, in this order.
PackedBatch pack(std::span<const Sample> samples, std::span<const uint32_t> indices);

// Cuts an order of samples into consecutive groups of at most max_tokens tokens (a longer sample stands
// alone).
std::vector<std::vector<uint32_t>> plan_packs(std::span<const Sample> samples,
                                              std::span<const uint32_t> order, size_t max_tokens);

// Where training is in the data; all that a checkpoint has to keep.
struct DataCursor {
  uint64_t epoch = 0;
  uint64_t position = 0;  // samples of this epoch already given out
};

enum class SampleOrder { kShuffled, kSequential };

// Gives out sample indices for ever, each once per epoch. The order of an epoch depends on (seed, epoch)
// alone.
class EpochSampler {
 public:
  // count > 0.
  EpochSampler(size_t count, uint64_t seed, SampleOrder order = SampleOrder::kShuffled,
               DataCursor start = {});

  // The next index, across the ends of epochs.
  uint32_t next();
  // The next n indices.
  std::vector<uint32_t> next(size_t n);
  // Where to go on: EpochSampler(count, seed, order, cursor()) continues with the same indices.
  DataCursor cursor() const { return cursor_; }

  // The whole order of one epoch, [count].
  static std::vector<uint32_t> epoch_order(size_t count, uint64_t seed, uint64_t epoch, SampleOrder order);

 private:
  size_t count_;
  uint64_t seed_;
  SampleOrder order_;
  DataCursor cursor_;
  std::vector<uint32_t> current_;
};

}  // namespace onggi

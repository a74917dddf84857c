#include "data/packing.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/random.h"

namespace onggi {
namespace {

// Keeps the order of the data apart from other random numbers of the same seed (dropout, initialisation).
constexpr uint64_t kOrderStream = 0xDA7A'0000'0000'0000;

}  // namespace

size_t PackedBatch::label_count() const {
  return static_cast<size_t>(
      std::count_if(labels.begin(), labels.end(), [](int32_t label) { return label != kNoLabel; }));
}

PackedBatch pack(std::span<const Sample> samples, std::span<const uint32_t> indices) {
  PackedBatch batch;
  batch.segment_starts.push_back(0);
  for (const uint32_t index : indices) {
    ONGGI_CHECK(index < samples.size(), "index of a sample");
    const Sample& sample = samples[index];
    ONGGI_CHECK(sample.ids.size() == sample.labels.size() && !sample.ids.empty(),
                "ids and labels of a sample");
    batch.tokens.insert(batch.tokens.end(), sample.ids.begin(), sample.ids.end());
    batch.labels.insert(batch.labels.end(), sample.labels.begin() + 1, sample.labels.end());
    batch.labels.push_back(kNoLabel);  // nothing follows the last token of a sample
    batch.segment_starts.push_back(static_cast<int32_t>(batch.tokens.size()));
    batch.samples.push_back(index);
  }
  return batch;
}

std::vector<std::vector<uint32_t>> plan_packs(std::span<const Sample> samples,
                                              std::span<const uint32_t> order, size_t max_tokens) {
  std::vector<std::vector<uint32_t>> packs;
  size_t used = 0;
  for (const uint32_t index : order) {
    ONGGI_CHECK(index < samples.size(), "index of a sample");
    const size_t length = samples[index].ids.size();
    if (packs.empty() || used + length > max_tokens) {
      packs.emplace_back();
      used = 0;
    }
    packs.back().push_back(index);
    used += length;
  }
  return packs;
}

EpochSampler::EpochSampler(size_t count, uint64_t seed, SampleOrder order, DataCursor start)
    : count_(count), seed_(seed), order_(order), cursor_(start) {
  ONGGI_CHECK(count > 0, "samples to draw from");
  ONGGI_CHECK(start.position <= count, "position in the data");
  current_ = epoch_order(count_, seed_, cursor_.epoch, order_);
}

uint32_t EpochSampler::next() {
  if (cursor_.position == count_) {
    cursor_ = {cursor_.epoch + 1, 0};
    current_ = epoch_order(count_, seed_, cursor_.epoch, order_);
  }
  return current_[cursor_.position++];
}

std::vector<uint32_t> EpochSampler::next(size_t n) {
  std::vector<uint32_t> indices(n);
  for (uint32_t& index : indices) index = next();
  return indices;
}

std::vector<uint32_t> EpochSampler::epoch_order(size_t count, uint64_t seed, uint64_t epoch,
                                                SampleOrder order) {
  std::vector<uint32_t> indices(count);
  std::iota(indices.begin(), indices.end(), 0u);
  if (order == SampleOrder::kSequential) return indices;
  Random random(seed, kOrderStream + epoch);
  for (size_t i = count; i > 1; --i) {  // Fisher-Yates
    std::swap(indices[i - 1], indices[random.below(static_cast<uint32_t>(i))]);
  }
  return indices;
}

}  // namespace onggi

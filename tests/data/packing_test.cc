#include "data/packing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace onggi {
namespace {

using testing::ElementsAre;

std::vector<Sample> samples() {
  std::vector<Sample> result(3);
  result[0].ids = {1, 2, 3};
  result[0].labels = {kNoLabel, 2, 3};
  result[1].ids = {4, 5};
  result[1].labels = {4, 5};
  result[2].ids = {6, 7, 8, 9};
  result[2].labels = {kNoLabel, kNoLabel, kNoLabel, 9};
  return result;
}

TEST(Packing, ShiftsLabelsWithinEachSample) {
  const auto all = samples();
  const uint32_t order[] = {2, 0, 1};
  const PackedBatch batch = pack(all, order);
  EXPECT_THAT(batch.tokens, ElementsAre(6, 7, 8, 9, 1, 2, 3, 4, 5));
  // A sample's last position predicts nothing: the next sample's first token is not its continuation.
  EXPECT_THAT(batch.labels, ElementsAre(-100, -100, 9, -100, 2, 3, -100, 5, -100));
  EXPECT_THAT(batch.segment_starts, ElementsAre(0, 4, 7, 9));
  EXPECT_THAT(batch.samples, ElementsAre(2u, 0u, 1u));
  EXPECT_EQ(batch.label_count(), 4u);
}

TEST(Packing, CountsTheSameLabelsPackedOrNot) {
  const auto all = samples();
  size_t alone = 0;
  for (uint32_t i = 0; i < 3; ++i) alone += pack(all, std::vector<uint32_t>{i}).label_count();
  EXPECT_EQ(pack(all, std::vector<uint32_t>{0, 1, 2}).label_count(), alone);
}

TEST(Packing, FillsUpToTheLimit) {
  const auto all = samples();
  const std::vector<uint32_t> order = {0, 1, 2, 1};
  EXPECT_THAT(plan_packs(all, order, 5), ElementsAre(ElementsAre(0, 1), ElementsAre(2), ElementsAre(1)));
  EXPECT_THAT(plan_packs(all, order, 6), ElementsAre(ElementsAre(0, 1), ElementsAre(2, 1)));
  EXPECT_THAT(plan_packs(all, order, 100), ElementsAre(ElementsAre(0, 1, 2, 1)));
  EXPECT_THAT(plan_packs(all, order, 1), testing::SizeIs(4)) << "a longer sample stands alone";
  EXPECT_THAT(plan_packs(all, {}, 5), testing::IsEmpty());
}

TEST(EpochSampler, VisitsEachSampleOncePerEpoch) {
  EpochSampler sampler(10, 42);
  std::vector<uint32_t> first = sampler.next(10), second = sampler.next(10);
  EXPECT_NE(first, second) << "each epoch has its own order";
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  EXPECT_THAT(first, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_EQ(first, second);
  EXPECT_NE(EpochSampler(10, 42).next(10), EpochSampler(10, 43).next(10));
  EXPECT_EQ(EpochSampler(10, 42).next(10), EpochSampler(10, 42).next(10));
}

TEST(EpochSampler, ResumesAnywhere) {
  for (size_t stop = 0; stop <= 25; ++stop) {
    EpochSampler whole(7, 1), before(7, 1);
    whole.next(stop);
    before.next(stop);
    EpochSampler after(7, 1, SampleOrder::kShuffled, before.cursor());
    EXPECT_EQ(after.next(15), whole.next(15)) << stop;
  }
}

TEST(EpochSampler, SequentialOrderWrapsAround) {
  // The schedule of the reference training: step s uses the samples (4 s + i) % 5.
  EpochSampler sampler(5, 0, SampleOrder::kSequential);
  for (uint32_t step = 0; step < 10; ++step) {
    for (uint32_t i = 0; i < 4; ++i) EXPECT_EQ(sampler.next(), (4 * step + i) % 5);
  }
}

}  // namespace
}  // namespace onggi

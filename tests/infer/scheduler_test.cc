#include "infer/scheduler.h"

#include <gtest/gtest.h>

#include "model/inference.h"

namespace onggi {
namespace {

constexpr int64_t P = kKvPageTokens;

SequenceLoad load(int64_t tokens, int64_t computed) { return {tokens, computed, pages_for(computed)}; }

TEST(Scheduler, Pages) {
  EXPECT_EQ(pages_for(0), 0);
  EXPECT_EQ(pages_for(1), 1);
  EXPECT_EQ(pages_for(P), 1);
  EXPECT_EQ(pages_for(P + 1), 2);
}

TEST(Scheduler, EveryAnswerGetsItsTokenBesideAPrompt) {
  const std::vector<SequenceLoad> active = {load(50, 49), load(1000, 100), load(7, 6), load(30, 0)};
  const StepPlan plan = plan_step(active, 100, 256);
  EXPECT_EQ(plan.tokens, (std::vector<int64_t>{1, 256, 1, 0}));
  EXPECT_EQ(plan.preempted, 0u);
  EXPECT_EQ(plan.new_pages, pages_for(356) - pages_for(100));
}

TEST(Scheduler, PromptsShareAChunk) {
  const std::vector<SequenceLoad> active = {load(40, 0), load(50, 0), load(300, 0)};
  EXPECT_EQ(plan_step(active, 100, 256).tokens, (std::vector<int64_t>{40, 50, 166}));
}

TEST(Scheduler, TheYoungestGivesWay) {
  // Each needs a page for its next token, and only one is there.
  const std::vector<SequenceLoad> active = {load(P + 1, P), load(2 * P + 1, 2 * P), load(P + 1, P)};
  const StepPlan one = plan_step(active, 2, 256);
  EXPECT_EQ(one.preempted, 1u);
  EXPECT_EQ(one.tokens, (std::vector<int64_t>{1, 1, 0}));
  EXPECT_EQ(one.new_pages, 2);
  // Nothing is free: the page of the youngest serves one of the two others, so the second goes too.
  const StepPlan none = plan_step(active, 0, 256);
  EXPECT_EQ(none.preempted, 2u);
  EXPECT_EQ(none.new_pages, 1);
}

TEST(Scheduler, TheOldestIsNeverPreempted) {
  const std::vector<SequenceLoad> active = {load(P + 1, P), load(P + 1, P)};
  EXPECT_EQ(plan_step(active, 0, 256).preempted, 1u);
  EXPECT_EQ(plan_step({active.data(), 1}, 0, 256).preempted, 0u);
}

TEST(Scheduler, AdmitsInOrderByPages) {
  const std::vector<int64_t> waiting = {P - 1, 3 * P, 1};
  EXPECT_EQ(count_admissible({}, waiting, 1, 8), 1u);
  EXPECT_EQ(count_admissible({}, waiting, 4, 8), 1u) << "the short one does not overtake";
  EXPECT_EQ(count_admissible({}, waiting, 5, 8), 2u);
  EXPECT_EQ(count_admissible({}, waiting, 6, 8), 3u);
  EXPECT_EQ(count_admissible({}, waiting, 100, 2), 2u);
  EXPECT_EQ(count_admissible({}, waiting, 0, 8), 0u);
  // A prompt that is being read has pages to come.
  const std::vector<SequenceLoad> active = {load(4 * P, P)};
  EXPECT_EQ(count_admissible(active, waiting, 3, 8), 0u);
  EXPECT_EQ(count_admissible(active, waiting, 4, 8), 1u);
  EXPECT_EQ(count_admissible(active, waiting, 100, 1), 0u);
}

}  // namespace
}  // namespace onggi

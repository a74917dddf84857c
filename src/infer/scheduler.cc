#include "infer/scheduler.h"

#include <algorithm>

#include "model/inference.h"

namespace onggi {

int64_t pages_for(int64_t tokens) { return (tokens + kKvPageTokens - 1) / kKvPageTokens; }

size_t count_admissible(std::span<const SequenceLoad> active, std::span<const int64_t> waiting,
                        int64_t available, int64_t max_batch) {
  for (const SequenceLoad& load : active)
    available -= std::max<int64_t>(0, pages_for(load.tokens) - load.pages);
  size_t count = 0;
  while (count < waiting.size() && static_cast<int64_t>(active.size() + count) < max_batch) {
    available -= pages_for(waiting[count] + 1);
    if (available < 0) break;
    ++count;
  }
  return count;
}

StepPlan plan_step(std::span<const SequenceLoad> active, int64_t available, int64_t prefill_chunk) {
  StepPlan plan;
  plan.tokens.resize(active.size());
  int64_t budget = prefill_chunk;
  for (size_t i = 0; i < active.size(); ++i) {
    const int64_t pending = active[i].pending();
    plan.tokens[i] = pending == 1 ? 1 : std::min(pending, budget);
    if (pending > 1) budget -= plan.tokens[i];
  }
  const auto growth = [&](size_t i) {
    return std::max<int64_t>(0, pages_for(active[i].computed + plan.tokens[i]) - active[i].pages);
  };
  for (size_t i = 0; i < active.size(); ++i) plan.new_pages += growth(i);
  while (plan.new_pages > available && plan.preempted + 1 < active.size()) {
    const size_t victim = active.size() - ++plan.preempted;
    plan.new_pages -= growth(victim);
    available += active[victim].pages;
    plan.tokens[victim] = 0;
  }
  return plan;
}

}  // namespace onggi

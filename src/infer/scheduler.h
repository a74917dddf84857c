// Which sequences run in a step, and with how many tokens: pure decisions over numbers, so that they can be
// tested without a model or threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace onggi {

// Pages that hold so many tokens.
int64_t pages_for(int64_t tokens);

// A sequence in work.
struct SequenceLoad {
  int64_t tokens = 0;    // known: prompt and answer so far
  int64_t computed = 0;  // of them, in the KV cache
  int64_t pages = 0;     // KV pages that it holds

  int64_t pending() const { return tokens - computed; }
};

// How many of the waiting sequences, in order and without overtaking, begin now. waiting: the tokens that
// each has to start with. A sequence begins when the pages for all its tokens and the next one are there,
// beyond those that the sequences in work need for theirs; the first page of growth after that is not
// promised to anybody. available: pages that are free or held by the prefix cache.
size_t count_admissible(std::span<const SequenceLoad> active, std::span<const int64_t> waiting,
                        int64_t available, int64_t max_batch);

struct StepPlan {
  // Per sequence: tokens of this step, 0 for none (a prompt whose turn comes later).
  std::vector<int64_t> tokens;
  // The last `preempted` sequences give their pages back and begin again later; their tokens are 0.
  size_t preempted = 0;
  // Pages that the step takes beyond those held; the prefix cache makes room for them.
  int64_t new_pages = 0;
};

// active: in the order of admission. Every answer gets its one token; prompts share prefill_chunk tokens, the
// oldest first. Where pages do not suffice the youngest sequences are preempted, never the oldest, which
// always fits because a whole context does.
StepPlan plan_step(std::span<const SequenceLoad> active, int64_t available, int64_t prefill_chunk);

}  // namespace onggi

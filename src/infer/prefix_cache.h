// The KV pages of finished sequences, kept for prompts that begin alike: the next turn of a conversation, or
// another one with the same system prompt.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <vector>

#include "model/inference.h"

namespace onggi {

// Shorter common prefixes are computed again: cheaper than giving an entry up for them.
inline constexpr int64_t kMinCachedTokens = 16;

class PrefixCache {
 public:
  // Both must outlive this.
  explicit PrefixCache(KvCache& cache) : cache_(cache) {}

  // Keeps a sequence; tokens are those that it holds, at least its length.
  void insert(std::vector<int32_t> tokens, KvSequence sequence);

  // A sequence that holds the longest cached prefix of tokens [T], at most T - 1 of them, so that one is left
  // to compute. An entry that goes on far beyond the common part is copied where free pages allow, and stays;
  // otherwise it is given away. nullopt when less than kMinCachedTokens are in common.
  std::optional<KvSequence> take(std::span<const int32_t> tokens);

  // Drops the least recently used entry; false when there is none.
  bool evict();
  // Pages that all entries hold.
  int64_t pages() const;

 private:
  struct Entry {
    std::vector<int32_t> tokens;
    KvSequence sequence;
  };
  std::optional<KvSequence> copy(const Entry& entry, int64_t length);

  KvCache& cache_;
  std::list<Entry> entries_;  // most recently used first
};

}  // namespace onggi

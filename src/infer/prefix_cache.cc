#include "infer/prefix_cache.h"

#include <algorithm>

#include "base/error.h"
#include "infer/scheduler.h"

namespace onggi {
namespace {

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  const size_t n = std::min(a.size(), b.size());
  size_t i = 0;
  while (i < n && a[i] == b[i]) ++i;
  return static_cast<int64_t>(i);
}

}  // namespace

void PrefixCache::insert(std::vector<int32_t> tokens, KvSequence sequence) {
  const size_t length = static_cast<size_t>(sequence.length());
  ONGGI_CHECK(tokens.size() >= length);
  if (sequence.length() < kMinCachedTokens) return;  // its pages go back here
  tokens.resize(length);
  // An entry that is a prefix of the new one can serve nothing that the new one cannot.
  std::erase_if(entries_, [&](const Entry& entry) {
    return common_prefix(entry.tokens, tokens) == static_cast<int64_t>(entry.tokens.size());
  });
  entries_.push_front(Entry{std::move(tokens), std::move(sequence)});
}

std::optional<KvSequence> PrefixCache::take(std::span<const int32_t> tokens) {
  int64_t best_length = 0;
  auto best = entries_.end();
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    const int64_t length =
        std::min(common_prefix(entry->tokens, tokens), static_cast<int64_t>(tokens.size()) - 1);
    if (length > best_length) {
      best_length = length;
      best = entry;
    }
  }
  if (best_length < kMinCachedTokens) return std::nullopt;
  // "Far beyond": more than a page would be lost.
  if (best->sequence.length() - best_length > kKvPageTokens) {
    if (auto sequence = copy(*best, best_length)) {
      entries_.splice(entries_.begin(), entries_, best);
      return sequence;
    }
  }
  std::optional<KvSequence> sequence(std::move(best->sequence));
  entries_.erase(best);
  sequence->truncate(best_length);
  return sequence;
}

std::optional<KvSequence> PrefixCache::copy(const Entry& entry, int64_t length) {
  std::optional<KvSequence> sequence(std::in_place, cache_);
  if (!sequence->reserve(length)) return std::nullopt;
  for (int64_t page = 0; page < pages_for(length); ++page) {
    cache_.copy_page(entry.sequence.pages()[static_cast<size_t>(page)],
                     sequence->pages()[static_cast<size_t>(page)]);
  }
  sequence->advance(length);
  return sequence;
}

bool PrefixCache::evict() {
  if (entries_.empty()) return false;
  entries_.pop_back();
  return true;
}

int64_t PrefixCache::pages() const {
  int64_t pages = 0;
  for (const Entry& entry : entries_) pages += pages_for(entry.sequence.length());
  return pages;
}

}  // namespace onggi

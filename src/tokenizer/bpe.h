// Byte-pair merges over the bytes of one word.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/token_ids.h"
#include "tokenizer/tokenizer.h"

namespace onggi {

class BytePairMerger {
 public:
  // ids: of parts.tokens. bytes: [V] the raw bytes of each id. Throws InputError where a byte has no token,
  // or a merge names tokens that are not in the vocabulary.
  BytePairMerger(const TokenizerParts& parts, const TokenIds& ids, const StringList& bytes);

  // Appends the ids of a word (raw bytes). Of all neighbours that merge, the pair of the lowest rank goes
  // first, the leftmost where ranks are equal. Time n log n.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    uint64_t pair = kNoPair;  // left id << 32 | right id
    uint32_t rank = 0;
    int32_t id = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static uint64_t pair_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  void insert(uint64_t pair, uint32_t rank, int32_t id);
  const Merge* find(int32_t left, int32_t right) const;
  void encode_short(std::string_view word, std::vector<int32_t>& ids) const;
  void encode_long(std::string_view word, std::vector<int32_t>& ids) const;

  std::array<int32_t, 256> byte_ids_{};
  // Open addressing with linear probing, a power of two of slots, at most five eighths full.
  std::vector<Merge> table_;
  uint64_t mask_ = 0;
  bool ignore_merges_ = false;
  std::unordered_map<std::string, int32_t> whole_words_;  // only where ignore_merges
};

}  // namespace onggi

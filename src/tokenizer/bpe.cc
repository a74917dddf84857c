#include "tokenizer/bpe.h"

#include <algorithm>
#include <queue>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/byte_alphabet.h"

namespace onggi {
namespace {

// Up to this many bytes, a scan for the best pair beats a heap.
constexpr size_t kShortWord = 48;

uint64_t hash_of(uint64_t pair) {
  pair ^= pair >> 29;
  pair *= 0x9E3779B97F4A7C15;
  return pair ^ pair >> 32;
}

}  // namespace

BytePairMerger::BytePairMerger(const TokenizerParts& parts, const TokenIds& ids, const StringList& bytes)
    : ignore_merges_(parts.ignore_merges) {
  if (ignore_merges_) {
    for (size_t id = 0; id < parts.tokens.size(); ++id)
      if (!parts.tokens[id].empty()) whole_words_.emplace(bytes[id], static_cast<int32_t>(id));
    // An added token is found before BPE, and never by it.
    for (const auto& token : parts.added_tokens)
      whole_words_.erase(std::string(bytes[static_cast<size_t>(token.id)]));
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto id = ids.find(to_byte_alphabet(std::string(1, static_cast<char>(byte))));
    if (!id) {
      throw InputError(
          text("the tokenizer's vocabulary lacks a token for the byte {}; only byte-level BPE is supported",
               byte));
    }
    byte_ids_[byte] = *id;
  }

  size_t slots = 16;
  while (slots * 5 / 8 < parts.merges.size()) slots *= 2;
  table_.resize(slots);
  mask_ = slots - 1;
  std::string merged;
  for (size_t rank = 0; rank < parts.merges.size(); ++rank) {
    const std::string_view merge = parts.merges[rank];
    const size_t space = merge.find(' ');
    ONGGI_CHECK(space != std::string_view::npos, "a merge has two halves");
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    const auto id_of = [&](std::string_view token) {
      const auto id = ids.find(token);
      if (!id) {
        throw InputError(
            text("merge {} of the tokenizer (\"{}\" + \"{}\") needs the token \"{}\", which the vocabulary "
                 "lacks; the tokenizer is damaged",
                 rank, left, right, token));
      }
      return *id;
    };
    merged.assign(left).append(right);
    insert(pair_of(id_of(left), id_of(right)), static_cast<uint32_t>(rank), id_of(merged));
  }
}

void BytePairMerger::insert(uint64_t pair, uint32_t rank, int32_t id) {
  uint64_t slot = hash_of(pair) & mask_;
  while (table_[slot].pair != kNoPair && table_[slot].pair != pair) slot = (slot + 1) & mask_;
  table_[slot] = {pair, rank, id};  // of a pair named twice, the later rank counts, as in `tokenizers`
}

const BytePairMerger::Merge* BytePairMerger::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (uint64_t slot = hash_of(pair) & mask_; table_[slot].pair != kNoPair; slot = (slot + 1) & mask_) {
    if (table_[slot].pair == pair) return &table_[slot];
  }
  return nullptr;
}

void BytePairMerger::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    const auto found = whole_words_.find(std::string(word));
    if (found != whole_words_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  if (word.size() <= kShortWord) return encode_short(word, ids);
  encode_long(word, ids);
}

void BytePairMerger::encode_short(std::string_view word, std::vector<int32_t>& ids) const {
  int32_t symbols[kShortWord];
  const Merge* merges[kShortWord];  // merges[i] joins symbols i and i + 1
  size_t count = word.size();
  for (size_t i = 0; i < count; ++i) symbols[i] = byte_ids_[static_cast<unsigned char>(word[i])];
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = count;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (merges[i] != nullptr && (best == count || merges[i]->rank < merges[best]->rank)) best = i;
    }
    if (best == count) break;
    symbols[best] = merges[best]->id;
    std::copy(symbols + best + 2, symbols + count, symbols + best + 1);
    if (best + 2 < count) std::copy(merges + best + 2, merges + count - 1, merges + best + 1);
    --count;
    if (best > 0) merges[best - 1] = find(symbols[best - 1], symbols[best]);
    if (best + 1 < count) merges[best] = find(symbols[best], symbols[best + 1]);
  }
  ids.insert(ids.end(), symbols, symbols + count);
}

void BytePairMerger::encode_long(std::string_view word, std::vector<int32_t>& ids) const {
  struct Symbol {
    int32_t id;  // -1: merged into the one before
    uint32_t previous, next;
  };
  struct Candidate {
    uint32_t rank, position;
    int32_t left, right, merged;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  ONGGI_CHECK(word.size() < (uint64_t{1} << 32) - 1, "length of a word");
  const auto count = static_cast<uint32_t>(word.size());
  std::vector<Symbol> symbols(count);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](uint32_t position) {
    const Symbol& left = symbols[position];
    if (left.next >= count) return;
    const int32_t right = symbols[left.next].id;
    const Merge* merge = find(left.id, right);
    if (merge != nullptr) queue.push({merge->rank, position, left.id, right, merge->id});
  };
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {byte_ids_[static_cast<unsigned char>(word[i])], i - 1, i + 1};  // 0 - 1 wraps above count
  }
  for (uint32_t i = 0; i < count; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    // A candidate is stale where either of its symbols has merged with another since.
    if (left.id != best.left || left.next >= count || symbols[left.next].id != best.right) continue;
    Symbol& right = symbols[left.next];
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next < count) symbols[left.next].previous = best.position;
    if (left.previous < count) consider(left.previous);
    consider(best.position);
  }
  for (uint32_t i = 0; i < count; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace onggi

// Finds tokens by their spelling.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/string_list.h"

namespace onggi {

class TokenIds {
 public:
  // tokens: [V] by id, empty for ids that are not used; outlives this. Of equal ones the first counts.
  explicit TokenIds(const StringList& tokens);

  std::optional<int32_t> find(std::string_view token) const;

 private:
  static constexpr int32_t kFree = -1;
  struct Slot {
    uint32_t hash = 0;  // the upper half, so that other tokens are seldom looked at
    int32_t id = kFree;
  };
  // Where a token is, or the free slot where it would be.
  size_t slot_of(std::string_view token, size_t hash) const;

  const StringList& tokens_;
  // Open addressing with linear probing, a power of two of slots, at most five eighths full.
  std::vector<Slot> slots_;
};

}  // namespace onggi

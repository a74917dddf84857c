#include "tokenizer/token_ids.h"

#include <functional>

namespace onggi {
namespace {

uint32_t upper_half(size_t hash) { return static_cast<uint32_t>(hash >> 32); }

}  // namespace

TokenIds::TokenIds(const StringList& tokens) : tokens_(tokens) {
  size_t slots = 16;
  while (slots * 5 / 8 < tokens.size()) slots *= 2;
  slots_.resize(slots);
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string_view token = tokens[id];
    if (token.empty()) continue;
    const size_t hash = std::hash<std::string_view>()(token);
    Slot& slot = slots_[slot_of(token, hash)];
    if (slot.id == kFree) slot = {upper_half(hash), static_cast<int32_t>(id)};
  }
}

size_t TokenIds::slot_of(std::string_view token, size_t hash) const {
  size_t at = hash & (slots_.size() - 1);
  while (slots_[at].id != kFree &&
         (slots_[at].hash != upper_half(hash) || tokens_[static_cast<size_t>(slots_[at].id)] != token))
    at = (at + 1) & (slots_.size() - 1);
  return at;
}

std::optional<int32_t> TokenIds::find(std::string_view token) const {
  const int32_t id = slots_[slot_of(token, std::hash<std::string_view>()(token))].id;
  return id == kFree ? std::nullopt : std::optional(id);
}

}  // namespace onggi

#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace onggi {
namespace {

size_t previous_start(std::string_view text, size_t position) {
  do --position;
  while ((static_cast<unsigned char>(text[position]) & 0xC0) == 0x80);
  return position;
}

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t position = previous_start(text, text.size());
  return is_word(next_code_point(text, position));
}

bool starts_with_word(std::string_view text) {
  size_t position = 0;
  return !text.empty() && is_word(next_code_point(text, position));
}

size_t start_of_trailing_space(std::string_view text) {
  size_t start = text.size();
  while (start > 0) {
    const size_t before = previous_start(text, start);
    size_t position = before;
    if (!is_white_space(next_code_point(text, position))) break;
    start = before;
  }
  return start;
}

size_t length_of_leading_space(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    size_t after = position;
    if (!is_white_space(next_code_point(text, after))) break;
    position = after;
  }
  return position;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens,
                                     const std::vector<std::string>& spellings)
    : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (spellings[i].empty()) continue;
    first_[static_cast<unsigned char>(spellings[i][0])] = true;
    uint32_t node = 0;
    for (const char c : spellings[i]) {
      const auto byte = static_cast<unsigned char>(c);
      uint32_t next = child(node, byte);
      if (next == 0) {
        next = static_cast<uint32_t>(nodes_.size());
        nodes_[node].children.emplace_back(byte, next);
        nodes_.emplace_back();
      }
      node = next;
    }
    nodes_[node].token = static_cast<int32_t>(i);
  }
}

uint32_t AddedTokenMatcher::child(uint32_t node, unsigned char byte) const {
  for (const auto& [key, next] : nodes_[node].children) {
    if (key == byte) return next;
  }
  return 0;
}

int32_t AddedTokenMatcher::match_at(std::string_view text, size_t position, size_t& end) const {
  int32_t found = -1;
  uint32_t node = 0;
  for (size_t i = position; i < text.size(); ++i) {
    node = child(node, static_cast<unsigned char>(text[i]));
    if (node == 0) break;
    if (nodes_[node].token >= 0) {
      found = nodes_[node].token;
      end = i + 1;
    }
  }
  return found;
}

void AddedTokenMatcher::split(std::string_view text, ParseSpecial parse,
                              const std::function<void(std::string_view)>& plain,
                              const std::function<void(int32_t)>& token) const {
  size_t done = 0;
  for (size_t position = 0; position < text.size();) {
    size_t end = position + 1;
    const int32_t index =
        first_[static_cast<unsigned char>(text[position])] ? match_at(text, position, end) : -1;
    if (index < 0) {
      ++position;
      continue;
    }
    const AddedToken& added = tokens_[index];
    size_t start = position;
    position = end;  // also where the match is refused below: `tokenizers` searches on behind it
    if (parse == ParseSpecial::kNo && added.special) continue;
    if (added.single_word && (ends_with_word(text.substr(0, start)) || starts_with_word(text.substr(end))))
      continue;
    if (added.lstrip) start = done + start_of_trailing_space(text.substr(done, start - done));
    if (added.rstrip) end += length_of_leading_space(text.substr(end));
    if (start > done) plain(text.substr(done, start - done));
    token(added.id);
    done = end;
    position = std::max(position, done);
  }
  if (done < text.size()) plain(text.substr(done));
}

}  // namespace onggi

// Finds added tokens in a text before BPE runs, as AddedVocabulary of `tokenizers` does.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace onggi {

class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  // spellings[i] is how tokens[i] stands in the texts to be searched.
  AddedTokenMatcher(std::vector<AddedToken> tokens, const std::vector<std::string>& spellings);

  bool empty() const { return tokens_.empty(); }

  // Calls plain for each part between tokens and token for each token found, in order. Of the tokens that
  // match at one place the longest is taken; places are taken from left to right.
  void split(std::string_view text, ParseSpecial parse, const std::function<void(std::string_view)>& plain,
             const std::function<void(int32_t)>& token) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, uint32_t>> children;
    int32_t token = -1;  // index into tokens_
  };
  uint32_t child(uint32_t node, unsigned char byte) const;  // 0 where there is none
  // The index of the longest token at position and its end; -1 where there is none.
  int32_t match_at(std::string_view text, size_t position, size_t& end) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::array<bool, 256> first_{};
};

}  // namespace onggi

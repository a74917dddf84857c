// The pre-tokenizers that have a name in GGUF files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace onggi {

struct NamedPreTokenizer {
  std::string_view name;     // tokenizer.ggml.pre
  std::string_view pattern;  // the splitting expression in tokenizer.json
  bool normalize_nfc;
  bool ignore_merges;
};

// nullptr for an unknown name.
const NamedPreTokenizer* find_pre_tokenizer(std::string_view name);
// The name of a list of splitting expressions; empty where it has none.
std::string pre_tokenizer_name(const std::vector<std::string>& patterns);
// What a ByteLevel pre-tokenizer with use_regex splits by.
std::string_view byte_level_pattern();

}  // namespace onggi

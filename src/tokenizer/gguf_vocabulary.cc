#include "base/error.h"
#include "base/text.h"
#include "tokenizer/pre_tokenizers.h"
#include "tokenizer/tokenizer.h"

namespace onggi {
namespace {

// llama_token_type of GGUF's tokenizer.ggml.token_type.
enum GgufTokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

std::pair<std::string, std::string> halves_of(const std::string& merge) {
  // Tokens of the byte-level alphabet hold no space, so the first one is the only one.
  const size_t space = merge.find(' ');
  if (space == std::string::npos || merge.find(' ', space + 1) != std::string::npos) {
    throw InputError(
        text("the merge \"{}\" in tokenizer.ggml.merges is not two tokens with a space between them; the "
             "GGUF file is damaged",
             merge.substr(0, 100)));
  }
  return {merge.substr(0, space), merge.substr(space + 1)};
}

}  // namespace

TokenizerParts parts_of(GgufVocabulary vocabulary) {
  const NamedPreTokenizer* known = find_pre_tokenizer(vocabulary.pre);
  if (known == nullptr) {
    throw InputError(
        text("the pre-tokenizer \"{}\" (tokenizer.ggml.pre) is not supported; supported are qwen2, "
             "llama-bpe and gpt-2",
             vocabulary.pre.substr(0, 100)));
  }
  if (vocabulary.token_types.size() != vocabulary.tokens.size()) {
    throw InputError(text("the GGUF file has {} tokens but {} token types; it is damaged",
                          vocabulary.tokens.size(), vocabulary.token_types.size()));
  }
  TokenizerParts parts;
  parts.pre_tokenizer = std::string(known->name);
  parts.normalize_nfc = known->normalize_nfc;
  parts.ignore_merges = known->ignore_merges;
  parts.tokens = std::move(vocabulary.tokens);
  for (size_t id = 0; id < parts.tokens.size(); ++id) {
    const int32_t type = vocabulary.token_types[id];
    if (type == kUnused) {
      parts.tokens[id].clear();
    } else if (type == kControl || type == kUserDefined) {
      AddedToken token;
      token.id = static_cast<int32_t>(id);
      token.content = parts.tokens[id];
      token.special = type == kControl;
      parts.added_tokens.push_back(std::move(token));
    } else if (type != kNormal) {
      throw InputError(
          text("token {} of the GGUF file has the type {}, which byte-level BPE does not know", id, type));
    }
  }
  while (!parts.tokens.empty() && parts.tokens.back().empty()) parts.tokens.pop_back();  // padding
  parts.merges.reserve(vocabulary.merges.size());
  for (const auto& merge : vocabulary.merges) parts.merges.push_back(halves_of(merge));
  parts.bos_id = vocabulary.bos_id;
  parts.eos_id = vocabulary.eos_id;
  parts.pad_id = vocabulary.pad_id;
  parts.chat_template = std::move(vocabulary.chat_template);
  return parts;
}

GgufVocabulary gguf_vocabulary(const Tokenizer& tokenizer, int32_t padded_size) {
  const TokenizerParts& parts = tokenizer.parts();
  const NamedPreTokenizer* known = find_pre_tokenizer(parts.pre_tokenizer);
  if (known == nullptr || known->normalize_nfc != parts.normalize_nfc ||
      known->ignore_merges != parts.ignore_merges) {
    throw InputError(
        text("the tokenizer's splitting and normalisation have no name in GGUF files, so other programs "
             "could not read "
             "it; use a base model of the Qwen3, Llama 3 or GPT-2 family"));
  }
  if (padded_size < tokenizer.vocabulary_size()) {
    throw InputError(
        text("the model's embedding has {} rows, fewer than the tokenizer's {} tokens; the two do not "
             "belong together",
             padded_size, tokenizer.vocabulary_size()));
  }
  GgufVocabulary vocabulary;
  vocabulary.pre = parts.pre_tokenizer;
  vocabulary.tokens = parts.tokens;
  vocabulary.tokens.resize(padded_size);
  vocabulary.token_types.assign(padded_size, kNormal);
  for (const auto& token : parts.added_tokens) {
    vocabulary.token_types[token.id] = token.special ? kControl : kUserDefined;
  }
  for (int32_t id = 0; id < padded_size; ++id) {
    if (!vocabulary.tokens[id].empty()) continue;
    vocabulary.tokens[id] = "[PAD" + std::to_string(id) + "]";
    vocabulary.token_types[id] = kUnused;
  }
  vocabulary.merges.reserve(parts.merges.size());
  for (const auto& [left, right] : parts.merges) vocabulary.merges.push_back(left + ' ' + right);
  vocabulary.bos_id = parts.bos_id;
  vocabulary.eos_id = parts.eos_id;
  vocabulary.pad_id = parts.pad_id;
  vocabulary.chat_template = parts.chat_template;
  return vocabulary;
}

}  // namespace onggi

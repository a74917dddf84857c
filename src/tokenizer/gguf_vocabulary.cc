#include "base/error.h"
#include "base/text.h"
#include "tokenizer/pre_tokenizers.h"
#include "tokenizer/tokenizer.h"

namespace onggi {
namespace {

// llama_token_type of GGUF's tokenizer.ggml.token_type.
enum GgufTokenType : int32_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

void check_merge(std::string_view merge) {
  // Tokens of the byte-level alphabet hold no space, so the first one is the only one.
  const size_t space = merge.find(' ');
  if (space == std::string_view::npos || merge.find(' ', space + 1) != std::string_view::npos) {
    throw InputError(
        text("the merge \"{}\" in tokenizer.ggml.merges is not two tokens with a space between them; the "
             "GGUF file is damaged",
             merge.substr(0, 100)));
  }
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
  parts.tokens.reserve(vocabulary.tokens.size(), vocabulary.tokens.total_bytes());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int32_t type = vocabulary.token_types[id];
    parts.tokens.push_back(type == kUnused ? std::string_view() : vocabulary.tokens[id]);
    if (type == kUnused) continue;
    if (type == kControl || type == kUserDefined) {
      AddedToken token;
      token.id = static_cast<int32_t>(id);
      token.content = vocabulary.tokens[id];
      token.special = type == kControl;
      parts.added_tokens.push_back(std::move(token));
    } else if (type != kNormal) {
      throw InputError(
          text("token {} of the GGUF file has the type {}, which byte-level BPE does not know", id, type));
    }
  }
  while (!parts.tokens.empty() && parts.tokens.back().empty()) parts.tokens.pop_back();  // padding
  for (const std::string_view merge : vocabulary.merges) check_merge(merge);
  parts.merges = std::move(vocabulary.merges);
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
  vocabulary.token_types.assign(padded_size, kNormal);
  for (const auto& token : parts.added_tokens) {
    vocabulary.token_types[token.id] = token.special ? kControl : kUserDefined;
  }
  for (size_t id = 0; id < static_cast<size_t>(padded_size); ++id) {
    const std::string_view token = id < parts.tokens.size() ? parts.tokens[id] : std::string_view();
    if (token.empty()) vocabulary.token_types[id] = kUnused;
    vocabulary.tokens.push_back(token.empty() ? "[PAD" + std::to_string(id) + "]" : std::string(token));
  }
  vocabulary.merges = parts.merges;
  vocabulary.bos_id = parts.bos_id;
  vocabulary.eos_id = parts.eos_id;
  vocabulary.pad_id = parts.pad_id;
  vocabulary.chat_template = parts.chat_template;
  return vocabulary;
}

}  // namespace onggi

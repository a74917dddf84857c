// Byte-level BPE, as Hugging Face's `tokenizers` runs the tokenizer.json of Qwen3 and its relatives: NFC, a
// splitting regular expression, bytes written in GPT-2's printable alphabet, merges by rank.
//
// Letters: T tokens, V vocabulary (ids 0 .. V-1; a model may pad its embedding beyond V).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/string_list.h"

namespace onggi {

// What "<|im_start|>" in a text means: the control token, or the characters it is written with. Added tokens
// that are not special (such as "<think>") are recognised either way, as `tokenizers` does with
// encode_special_tokens.
enum class ParseSpecial { kYes, kNo };
// Whether decode() leaves the special tokens out.
enum class SkipSpecial { kNo, kYes };

// A token that is matched in the text before BPE runs.
struct AddedToken {
  int32_t id = 0;
  std::string content;       // as written, not in the byte-level alphabet
  bool special = false;      // control token: left out by SkipSpecial::kYes, plain text for ParseSpecial::kNo
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool single_word = false;  // matches only where no word character touches it
  bool normalized = false;   // matched in the normalised text instead of the original
};

// All that defines a tokenizer, independent of the file format that it came from.
struct TokenizerParts {
  // [V] by id: BPE tokens in the byte-level alphabet, added tokens as written; empty for an id that is not
  // used.
  StringList tokens;
  // By rank: the two halves, in the byte-level alphabet, which has no space, with a space between them.
  StringList merges;
  std::vector<AddedToken> added_tokens;
  // The name that GGUF files give the pre-tokenizer and normaliser ("qwen2", "llama-bpe", "gpt-2"); empty
  // where the splitting expressions are none of the known ones.
  std::string pre_tokenizer;
  // Splitting expressions in order; filled from pre_tokenizer where empty.
  std::vector<std::string> split_patterns;
  bool normalize_nfc = true;
  bool ignore_merges = false;  // a word that is a token is taken whole
  std::optional<int32_t> bos_id, eos_id, pad_id;
  std::string chat_template;  // Jinja text, empty where there is none
};

class Tokenizer {
 public:
  // From the bytes of tokenizer.json, tokenizer_config.json and chat_template.jinja (the last two may be
  // empty). Throws InputError for broken bytes and for every construct that we do not run, naming it.
  static Tokenizer from_json(std::string_view tokenizer_json, std::string_view tokenizer_config_json = {},
                             std::string_view chat_template = {});
  // From a Hugging Face folder: tokenizer.json, and tokenizer_config.json and chat_template.jinja where
  // present.
  static Tokenizer load(const fs::path& folder);
  // Throws InputError for an unknown pre-tokenizer, a merge of unknown tokens, a missing byte, ids out of
  // range.
  static Tokenizer from_parts(TokenizerParts parts);

  // The token ids [T] of a UTF-8 text. Time grows with n log n for any input. Throws InputError for invalid
  // UTF-8. Safe to call from many threads at once.
  std::vector<int32_t> encode(std::string_view text, ParseSpecial parse = ParseSpecial::kYes) const;

  // The text of ids; bytes that are not UTF-8 become U+FFFD. Ids outside the vocabulary (padding) give
  // nothing.
  std::string decode(std::span<const int32_t> ids, SkipSpecial skip = SkipSpecial::kNo) const;
  // The raw bytes of one token, possibly a part of a character; empty for ids outside the vocabulary.
  std::string_view token_bytes(int32_t id) const;

  // V: the highest id + 1.
  int32_t vocabulary_size() const;
  // The id of a token, spelt as in tokenizer.json ("<|im_end|>", "Ġthe").
  std::optional<int32_t> id_of(std::string_view token) const;
  bool is_special(int32_t id) const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;
  // The model's chat template (Jinja text), empty where it has none.
  const std::string& chat_template() const;
  // Everything above as data, for writers of other formats.
  const TokenizerParts& parts() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;  // shared: copies are cheap
};

// Turns a stream of ids into text that always ends at a UTF-8 boundary.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, SkipSpecial skip = SkipSpecial::kYes)
      : tokenizer_(std::move(tokenizer)), skip_(skip) {}

  // The text that became complete with this id; may be empty.
  std::string push(int32_t id);
  // What is left at the end: an unfinished character as U+FFFD.
  std::string flush();

 private:
  Tokenizer tokenizer_;
  SkipSpecial skip_;
  std::string pending_;  // the bytes of an unfinished character, at most 3
};

// GGUF's tokenizer.ggml.* keys. Types are GGUF's: 1 normal, 3 control, 4 user defined, 5 unused.
struct GgufVocabulary {
  StringList tokens;                 // [V]
  std::vector<int32_t> token_types;  // [V]
  StringList merges;                 // "left right"
  std::string pre;                   // "qwen2"
  std::optional<int32_t> bos_id, eos_id, pad_id;
  std::string chat_template;
};

// The parts of a tokenizer that was read from a GGUF file; give them to Tokenizer::from_parts.
TokenizerParts parts_of(GgufVocabulary vocabulary);
// What a GGUF writer writes. padded_size: the rows of the model's embedding; ids beyond V become "[PADn]",
// unused. Throws InputError where the pre-tokenizer has no GGUF name, or padded_size < V.
GgufVocabulary gguf_vocabulary(const Tokenizer& tokenizer, int32_t padded_size);

}  // namespace onggi

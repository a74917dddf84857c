#include "tokenizer/tokenizer.h"

#include <algorithm>
#include <deque>
#include <unordered_map>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/pre_tokenizers.h"
#include "tokenizer/split_regex.h"
#include "tokenizer/token_ids.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace onggi {
namespace {

constexpr size_t kMaxAddedTokenBytes = 4096;  // keeps the search for added tokens linear in the text
constexpr size_t kMaxTextBytes = size_t{1} << 31;
// Words are remembered within one call where the text is long enough for words to come again.
constexpr size_t kCacheFromBytes = 4096;
constexpr size_t kMaxCachedWordBytes = 64;
constexpr size_t kMaxCachedWords = 1 << 16;

void check_added_token(const AddedToken& token, size_t vocabulary) {
  if (token.id < 0 || static_cast<size_t>(token.id) >= vocabulary) {
    throw InputError(
        text("the added token \"{}\" has the id {}, outside the vocabulary of {}; the tokenizer is damaged",
             token.content.substr(0, 100), token.id, vocabulary));
  }
  if (token.content.size() > kMaxAddedTokenBytes || !is_valid_utf8(token.content)) {
    throw InputError(
        text("the added token with the id {} is not a UTF-8 text of at most {} bytes; the tokenizer is "
             "damaged",
             token.id, kMaxAddedTokenBytes));
  }
}

void check_special_id(const std::optional<int32_t>& id, size_t vocabulary, const char* what) {
  if (id && (*id < 0 || static_cast<size_t>(*id) >= vocabulary)) {
    throw InputError(text("the tokenizer's {} id {} is outside its vocabulary of {}; the file is damaged",
                          what, *id, vocabulary));
  }
}

// The words of one call and where their ids stand in its result.
class WordCache {
 public:
  explicit WordCache(const BytePairMerger& merger) : merger_(merger) {}

  void encode(std::string_view word, std::vector<int32_t>& ids) {
    if (word.size() > kMaxCachedWordBytes) return merger_.encode(word, ids);
    const auto [entry, fresh] = words_.try_emplace(word, ids.size(), 0);
    auto& [start, count] = entry->second;
    if (!fresh) {
      const size_t end = ids.size();
      ids.resize(end + count);
      std::copy_n(ids.begin() + start, count, ids.begin() + end);
      return;
    }
    merger_.encode(word, ids);
    count = ids.size() - start;
    if (words_.size() > kMaxCachedWords) words_.clear();
  }

 private:
  const BytePairMerger& merger_;
  std::unordered_map<std::string_view, std::pair<size_t, size_t>> words_;
};

}  // namespace

struct Tokenizer::Impl {
  TokenizerParts parts;
  StringList bytes;           // [V] raw
  std::vector<bool> special;  // [V]
  TokenIds ids;
  std::vector<SplitRegex> splits;
  std::optional<BytePairMerger> merger;
  AddedTokenMatcher before_normalisation, after_normalisation;

  explicit Impl(TokenizerParts&& given) : parts(std::move(given)), ids(parts.tokens) {
    read_added_tokens();
    read_tokens();
    check_special_id(parts.bos_id, parts.tokens.size(), "bos");
    check_special_id(parts.eos_id, parts.tokens.size(), "eos");
    check_special_id(parts.pad_id, parts.tokens.size(), "pad");
    for (const auto& pattern : parts.split_patterns) splits.emplace_back(pattern);
    merger.emplace(parts, ids, bytes);
  }

  void read_added_tokens() {
    special.assign(parts.tokens.size(), false);
    std::vector<AddedToken> raw, normalized;
    std::vector<std::string> raw_spellings, normalized_spellings;
    for (const auto& token : parts.added_tokens) {
      check_added_token(token, parts.tokens.size());
      special[token.id] = special[token.id] || token.special;
      (token.normalized ? normalized : raw).push_back(token);
      (token.normalized ? normalized_spellings : raw_spellings)
          .push_back(token.normalized && parts.normalize_nfc ? to_nfc(token.content) : token.content);
    }
    before_normalisation = AddedTokenMatcher(std::move(raw), raw_spellings);
    after_normalisation = AddedTokenMatcher(std::move(normalized), normalized_spellings);
  }

  void read_tokens() {
    bytes.reserve(parts.tokens.size(), parts.tokens.total_bytes());
    for (size_t id = 0; id < parts.tokens.size(); ++id) {
      const std::string_view token = parts.tokens[id];
      if (!is_valid_utf8(token)) {
        throw InputError(text("the token with the id {} is not valid UTF-8; the tokenizer is damaged", id));
      }
      // As ByteLevel decodes: what is not written in the alphabet stands for itself.
      const auto raw = from_byte_alphabet(token);
      bytes.push_back(raw ? *raw : token);
    }
  }

  template <typename Encode>
  void split_words(std::string_view piece, size_t level, const Encode& encode) const {
    if (level == splits.size()) return encode(piece);
    splits[level].split(piece, [&](std::string_view part) { split_words(part, level + 1, encode); });
  }

  template <typename Encode>
  void encode_plain(std::string_view piece, ParseSpecial parse, std::vector<int32_t>& out,
                    const Encode& encode) const {
    if (after_normalisation.empty()) return split_words(piece, 0, encode);
    after_normalisation.split(
        piece, parse, [&](std::string_view part) { split_words(part, 0, encode); },
        [&](int32_t id) { out.push_back(id); });
  }
};

Tokenizer Tokenizer::from_parts(TokenizerParts parts) {
  if (parts.split_patterns.empty() && !parts.pre_tokenizer.empty()) {
    const NamedPreTokenizer* known = find_pre_tokenizer(parts.pre_tokenizer);
    if (known == nullptr) {
      throw InputError(
          text("the pre-tokenizer \"{}\" is not supported; supported are qwen2, llama-bpe and gpt-2",
               parts.pre_tokenizer.substr(0, 100)));
    }
    parts.split_patterns.emplace_back(known->pattern);
  }
  return Tokenizer(std::make_shared<const Impl>(std::move(parts)));
}

Tokenizer Tokenizer::from_json(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                               std::string_view chat_template) {
  return from_parts(parse_tokenizer_json(tokenizer_json, tokenizer_config_json, chat_template));
}

Tokenizer Tokenizer::load(const fs::path& folder) {
  const auto read_optional = [&](const char* name) {
    std::error_code ignored;
    return fs::exists(folder / name, ignored) ? read_file(folder / name) : std::string();
  };
  return from_json(read_file(folder / "tokenizer.json"), read_optional("tokenizer_config.json"),
                   read_optional("chat_template.jinja"));
}

std::vector<int32_t> Tokenizer::encode(std::string_view input, ParseSpecial parse) const {
  const size_t valid = valid_utf8_prefix(input);
  if (valid != input.size()) {
    throw InputError(text("the text is not valid UTF-8 at byte {}; convert it to UTF-8", valid));
  }
  if (input.size() > kMaxTextBytes) {
    throw InputError(
        text("the text has {} bytes; at most {} can be tokenised at once", input.size(), kMaxTextBytes));
  }
  std::vector<int32_t> out;
  std::deque<std::string> normalised;  // kept to the end, and in place, because the cache points into it
  WordCache cache(*impl_->merger);
  const bool cached = input.size() >= kCacheFromBytes;
  const auto encode_word = [&](std::string_view word) {
    cached ? cache.encode(word, out) : impl_->merger->encode(word, out);
  };
  impl_->before_normalisation.split(
      input, parse,
      [&](std::string_view part) {
        if (impl_->parts.normalize_nfc) {
          std::string nfc = to_nfc(part);
          if (nfc != part) {
            normalised.push_back(std::move(nfc));
            part = normalised.back();
          }
        }
        impl_->encode_plain(part, parse, out, encode_word);
      },
      [&](int32_t id) { out.push_back(id); });
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, SkipSpecial skip) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip == SkipSpecial::kYes && is_special(id)) continue;
    bytes += token_bytes(id);
  }
  return replace_invalid_utf8(bytes);
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  return id < 0 || id >= vocabulary_size() ? std::string_view() : impl_->bytes[static_cast<size_t>(id)];
}

int32_t Tokenizer::vocabulary_size() const { return static_cast<int32_t>(impl_->parts.tokens.size()); }

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const { return impl_->ids.find(token); }

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocabulary_size() && impl_->special[id];
}
std::optional<int32_t> Tokenizer::bos_id() const { return impl_->parts.bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return impl_->parts.eos_id; }
std::optional<int32_t> Tokenizer::pad_id() const { return impl_->parts.pad_id; }
const std::string& Tokenizer::chat_template() const { return impl_->parts.chat_template; }
const TokenizerParts& Tokenizer::parts() const { return impl_->parts; }

std::string StreamDecoder::push(int32_t id) {
  if (skip_ == SkipSpecial::kYes && tokenizer_.is_special(id)) return {};
  pending_ += tokenizer_.token_bytes(id);
  const size_t tail = unfinished_utf8_tail(pending_);
  std::string complete = pending_.substr(0, pending_.size() - tail);
  pending_.erase(0, complete.size());
  return replace_invalid_utf8(complete);
}

std::string StreamDecoder::flush() {
  std::string rest = replace_invalid_utf8(pending_);
  pending_.clear();
  return rest;
}

}  // namespace onggi

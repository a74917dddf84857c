#include "tokenizer/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

constexpr size_t kMaxPatternBytes = 64 * 1024;
// PCRE2's own \s also takes U+180E, which is not White_Space.
constexpr std::string_view kSpaceClass = "\\t-\\r\\x{85}\\p{Z}";

[[noreturn]] void unsupported(std::string_view construct, std::string_view pattern) {
  throw InputError(
      text("the tokenizer's splitting expression uses {}, which is not supported; use a tokenizer with "
           "another expression: "
           "{}",
           construct, pattern.substr(0, 200)));
}

// Walks over a pattern and copies it, class by class and escape by escape.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (position_ < pattern_.size()) step();
    return std::move(out_);
  }

 private:
  char peek(size_t offset = 0) const {
    return position_ + offset < pattern_.size() ? pattern_[position_ + offset] : '\0';
  }
  void copy(size_t count) {
    const auto part = pattern_.substr(position_, count);
    out_.append(part);
    position_ += part.size();
  }

  void step() {
    switch (peek()) {
      case '\\':
        return escape();
      case '[':
        return character_class();
      case '(':
        return group();
      case '^':
      case '$':
        unsupported(text("the anchor {}", peek()), pattern_);
      case '}':
        // After a bound, Oniguruma's Ruby syntax reads + as a second repetition, PCRE2 as possessive.
        if (peek(1) == '+') unsupported("}+", pattern_);
        return copy(1);
      default:
        return copy(1);
    }
  }

  void group() {
    if (peek(1) == '*') unsupported("(*", pattern_);
    if (peek(1) != '?') return copy(1);
    static constexpr std::string_view kKnown[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"};
    const auto rest = pattern_.substr(position_);
    for (const auto known : kKnown) {
      if (rest.substr(0, known.size()) == known) return copy(known.size());
    }
    unsupported(rest.substr(0, 3), pattern_);
  }

  void property() {
    const size_t end = peek(2) == '{' ? pattern_.find('}', position_) : std::string_view::npos;
    if (end == std::string_view::npos) unsupported("\\p without {name}", pattern_);
    copy(end + 1 - position_);
  }

  // An escape that means one character, or a property: the same inside and outside of a class.
  bool common_escape() {
    const char c = peek(1);
    if (c == 'p' || c == 'P') {
      property();
    } else if (c == 'r' || c == 'n' || c == 't' || c == 'f' || c == 'd' || c == 'D' || c == 'x') {
      copy(2);
    } else if (c == 'v') {  // the vertical tab; PCRE2 reads a class of vertical spaces
      out_ += "\\x0b";
      position_ += 2;
    } else if (c == 'u') {
      const auto digits = pattern_.substr(position_ + 2, 4);
      const auto is_hex = [](unsigned char d) { return std::isxdigit(d) != 0; };
      if (digits.size() != 4 || !std::all_of(digits.begin(), digits.end(), is_hex)) {
        unsupported("\\u without four digits", pattern_);
      }
      out_ += "\\x{" + std::string(digits) + "}";
      position_ += 6;
    } else if (c != '\0' && std::ispunct(static_cast<unsigned char>(c)) != 0) {
      copy(2);
    } else {
      return false;
    }
    return true;
  }

  void escape() {
    const char c = peek(1);
    if (c == 's' || c == 'S') {
      out_ += c == 's' ? "[" : "[^";
      out_ += kSpaceClass;
      out_ += "]";
      position_ += 2;
    } else if (!common_escape()) {
      unsupported(text("\\{}", c), pattern_);
    }
  }

  void character_class() {
    copy(peek(1) == '^' ? 2 : 1);
    if (peek() == ']') unsupported("] first in a character class", pattern_);
    while (peek() != ']') {
      if (position_ >= pattern_.size()) unsupported("a character class without end", pattern_);
      if (peek() == '[') unsupported("a class inside a class", pattern_);
      if (peek() == '&' && peek(1) == '&') unsupported("&&", pattern_);
      if (peek() != '\\') {
        copy(1);
      } else if (peek(1) == 's') {
        out_ += kSpaceClass;
        position_ += 2;
      } else if (!common_escape()) {
        unsupported(text("\\{} in a character class", peek(1)), pattern_);
      }
    }
    copy(1);
  }

  std::string_view pattern_;
  size_t position_ = 0;
  std::string out_;
};

struct MatchData {
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;

  explicit MatchData(const pcre2_code* code) : data(pcre2_match_data_create_from_pattern(code, nullptr)) {
    ONGGI_CHECK(data != nullptr, "memory for a match");
  }
  MatchData(const MatchData&) = delete;
  MatchData& operator=(const MatchData&) = delete;
  ~MatchData() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    if (stack != nullptr) pcre2_jit_stack_free(stack);
  }

  // The default stack of 32 KiB serves all usual expressions; this one is for nested repeats.
  void grow_stack() {
    context = pcre2_match_context_create(nullptr);
    stack = pcre2_jit_stack_create(32 * 1024, 8 * 1024 * 1024, nullptr);
    ONGGI_CHECK(context != nullptr && stack != nullptr, "memory for a match");
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
};

}  // namespace

std::string oniguruma_to_pcre(std::string_view pattern) { return Translator(pattern).run(); }

SplitRegex::SplitRegex(std::string_view oniguruma_pattern) {
  if (oniguruma_pattern.size() > kMaxPatternBytes) {
    throw InputError(text("the tokenizer's splitting expression has {} bytes; at most {} are read",
                          oniguruma_pattern.size(), kMaxPatternBytes));
  }
  const std::string pattern = oniguruma_to_pcre(oniguruma_pattern);
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  ONGGI_CHECK(context != nullptr, "memory for a compile context");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 50);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context.get());
  if (code == nullptr) {
    PCRE2_UCHAR reason[200] = {};
    pcre2_get_error_message(error, reason, sizeof reason);
    throw InputError(text("the tokenizer's splitting expression cannot be read: {} at byte {} of {}",
                          reinterpret_cast<const char*>(reason), offset, pattern.substr(0, 200)));
  }
  code_ = std::shared_ptr<void>(code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without JIT the interpreter runs: slower, the same result
}

void SplitRegex::split(std::string_view subject, const std::function<void(std::string_view)>& piece) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  MatchData match(code);
  size_t done = 0, search = 0;
  while (search < subject.size()) {
    const int result = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), search,
                                   PCRE2_NO_UTF_CHECK, match.data, match.context);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && match.stack == nullptr) {
      match.grow_stack();
      continue;
    }
    if (result < 0) {
      throw InputError(
          text("the tokenizer's splitting expression takes too many steps at byte {} of a text (PCRE2 error "
               "{}); the text or "
               "the expression is not usable",
               search, result));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.data);
    const size_t begin = range[0], end = range[1];
    if (end <= begin) {  // an empty match splits nothing; go on behind the next character
      search = std::max(search, begin) + 1;
      while (search < subject.size() && (static_cast<unsigned char>(subject[search]) & 0xC0) == 0x80)
        ++search;
      continue;
    }
    if (begin > done) piece(subject.substr(done, begin - done));
    piece(subject.substr(begin, end - begin));
    done = search = end;
  }
  if (done < subject.size()) piece(subject.substr(done));
}

}  // namespace onggi

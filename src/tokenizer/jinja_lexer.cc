#include "tokenizer/jinja_lexer.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace onggi::jinja {
namespace {

constexpr size_t kMaxTemplateBytes = 4 << 20;
constexpr size_t kMaxTokens = 1 << 20;

bool is_name_start(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

// Line ends as Jinja reads them: \r\n and \r become \n, the last one is dropped.
std::string normalise_newlines(std::string_view source) {
  std::string result;
  result.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      result.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      result.push_back(source[i]);
    }
  }
  if (!result.empty() && result.back() == '\n') result.pop_back();
  return result;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) data();
    emit(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  bool at(std::string_view what) const {
    return std::string_view(source_).substr(position_, what.size()) == what;
  }
  char peek(size_t offset = 0) const {
    return position_ + offset < source_.size() ? source_[position_ + offset] : '\0';
  }
  void advance(size_t count) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + position_, source_.begin() + position_ + count, '\n'));
    position_ += count;
  }
  void emit(TokenKind kind, std::string text) {
    if (tokens_.size() >= kMaxTokens) fail(line_, text_too_large());
    tokens_.push_back({kind, std::move(text), line_});
  }
  static std::string text_too_large() { return text("the template has more than {} tokens", kMaxTokens); }

  void skip_space() { advance(behind_space(position_) - position_); }

  // Text up to the next tag, then the tag.
  void data() {
    size_t tag = position_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        put_text(std::string_view(source_).substr(position_));
        advance(source_.size() - position_);
        return;
      }
      if (const char c = source_[tag + 1]; c == '%' || c == '{' || c == '#') break;
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    put_text(trimmed(std::string_view(source_).substr(position_, tag - position_), sign, kind != '{'));
    advance(tag - position_ + (sign == '-' || sign == '+' ? 3 : 2));
    if (kind == '#') return comment();
    if (kind == '%' && raw_begin()) return raw();
    emit(kind == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
    inside(kind == '%');
  }

  void put_text(std::string_view part) {
    if (!part.empty()) emit(TokenKind::kText, std::string(part));
  }

  // The text before a tag, after the sign of the tag ("{%-", "{%+") and lstrip_blocks.
  std::string_view trimmed(std::string_view part, char sign, bool block) const {
    if (sign == '-') {
      size_t end = part.size();
      while (end > 0) {
        size_t before = end - 1;
        while ((static_cast<unsigned char>(part[before]) & 0xC0) == 0x80) --before;
        size_t after = before;
        if (!is_python_space(next_code_point(part, after))) break;
        end = before;
      }
      return part.substr(0, end);
    }
    if (sign == '+' || !block) return part;
    const size_t newline = part.rfind('\n');
    if (newline == std::string_view::npos && !line_starting_) return part;
    const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
    for (size_t i = line_start; i < part.size();) {
      if (!is_python_space(next_code_point(part, i))) return part;
    }
    return part.substr(0, line_start);
  }

  // Behind the end of a tag: a minus takes all white space, a block without plus the newline (trim_blocks).
  void end_tag(char sign, size_t length, bool block) {
    const size_t begin = position_;
    advance(length);
    if (sign == '-') {
      skip_space();
    } else if (block && sign != '+' && peek() == '\n') {
      advance(1);
    }
    line_starting_ = position_ > begin && source_[position_ - 1] == '\n';
  }

  void comment() {
    const size_t end = source_.find("#}", position_);
    if (end == std::string::npos) fail(line_, text("a comment does not end"));
    const char sign = end > position_ ? source_[end - 1] : '\0';
    advance(end - position_);
    end_tag(sign, 2, true);
  }

  // After "{%" and its sign: "raw %}"?
  bool raw_begin() {
    const size_t start = position_;
    const int line = line_;
    skip_space();
    if (at("raw") && !is_name_part(peek(3))) {
      advance(3);
      skip_space();
      if (at("-%}")) return end_tag('-', 3, false), true;
      if (at("%}")) return end_tag('\0', 2, false), true;
    }
    position_ = start;
    line_ = line;
    return false;
  }

  // The position behind white space.
  size_t behind_space(size_t position) const {
    while (position < source_.size()) {
      size_t after = position;
      if (!is_python_space(next_code_point(source_, after))) break;
      position = after;
    }
    return position;
  }
  bool stands_at(size_t position, std::string_view what) const {
    return source_.compare(position, what.size(), what) == 0;
  }

  void raw() {
    const size_t begin = position_;
    for (size_t tag = source_.find("{%", begin); tag != std::string::npos;
         tag = source_.find("{%", tag + 2)) {
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      const size_t name = behind_space(tag + (sign == '-' || sign == '+' ? 3 : 2));
      if (!stands_at(name, "endraw")) continue;
      const size_t end = behind_space(name + 6);
      const bool is_signed = stands_at(end, "-%}") || stands_at(end, "+%}");
      if (!is_signed && !stands_at(end, "%}")) continue;
      put_text(trimmed(std::string_view(source_).substr(begin, tag - begin), sign, true));
      advance(end - begin);
      return end_tag(is_signed ? peek() : '\0', is_signed ? 3 : 2, true);
    }
    fail(line_, text("a raw block does not end"));
  }

  // The tokens of one {{ }} or {% %}.
  void inside(bool block) {
    const std::string_view end = block ? "%}" : "}}";
    size_t depth = 0;  // of brackets: "}}" inside "{{ {'a': {}} }}" ends nothing
    for (;;) {
      skip_space();
      if (position_ >= source_.size()) fail(line_, text("a tag does not end"));
      if (depth == 0) {
        const char sign = peek();
        const bool is_signed =
            (sign == '-' || (block && sign == '+')) && peek(1) == end[0] && peek(2) == end[1];
        if (is_signed || at(end)) {
          emit(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
          return end_tag(is_signed ? sign : '\0', is_signed ? 3 : 2, block);
        }
      }
      token(depth);
    }
  }

  void token(size_t& depth) {
    const char c = peek();
    if (is_digit(c)) return number();
    if (c == '\'' || c == '"') return string();
    if (is_name_start(c)) {
      size_t length = 1;
      while (is_name_part(peek(length))) ++length;
      emit(TokenKind::kName, source_.substr(position_, length));
      return advance(length);
    }
    static constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (const auto op : kOperators) {
      if (!at(op)) continue;
      if (op == "(" || op == "[" || op == "{") ++depth;
      if (op == ")" || op == "]" || op == "}") {
        if (depth == 0) fail(line_, text("unexpected \"{}\"", op));
        --depth;
      }
      emit(TokenKind::kOperator, std::string(op));
      return advance(op.size());
    }
    size_t after = position_;
    next_code_point(source_, after);
    fail(line_, text("unexpected character \"{}\"", source_.substr(position_, after - position_)));
  }

  size_t digits(size_t offset) const {
    size_t length = offset;
    while (is_digit(peek(length)) || (peek(length) == '_' && is_digit(peek(length + 1)))) ++length;
    return length;
  }

  void number() {
    if (peek() == '0' && std::isalpha(static_cast<unsigned char>(peek(1))) != 0 && peek(1) != 'e' &&
        peek(1) != 'E') {
      size_t length = 2;
      while (std::isxdigit(static_cast<unsigned char>(peek(length))) != 0 || peek(length) == '_') ++length;
      emit(TokenKind::kInteger, source_.substr(position_, length));
      return advance(length);
    }
    size_t length = digits(0);
    bool is_float = false;
    const bool after_dot = position_ > 0 && source_[position_ - 1] == '.';
    if (!after_dot && peek(length) == '.' && is_digit(peek(length + 1))) {
      length = digits(length + 1);
      is_float = true;
    }
    if (!after_dot && (peek(length) == 'e' || peek(length) == 'E')) {
      const size_t sign = peek(length + 1) == '+' || peek(length + 1) == '-' ? 1 : 0;
      if (is_digit(peek(length + 1 + sign))) {
        length = digits(length + 1 + sign);
        is_float = true;
      }
    }
    if (is_name_part(peek(length))) fail(line_, text("a name stands directly after a number"));
    emit(is_float ? TokenKind::kFloat : TokenKind::kInteger, source_.substr(position_, length));
    advance(length);
  }

  void string() {
    const char quote = peek();
    std::string value;
    size_t length = 1;
    while (peek(length) != quote) {
      if (position_ + length >= source_.size()) fail(line_, text("a string does not end"));
      if (peek(length) == '\\') {
        length = unescape(length + 1, value);
      } else {
        value.push_back(peek(length++));
      }
    }
    emit(TokenKind::kString, std::move(value));
    advance(length + 1);
  }

  // Python's escapes; offset is behind the backslash. Returns the offset behind the escape.
  size_t unescape(size_t offset, std::string& value) {
    const char c = peek(offset);
    static constexpr std::string_view kFrom = "ntrabfv\\'\"", kTo = "\n\t\r\a\b\f\v\\'\"";
    if (const size_t index = kFrom.find(c); c != '\0' && index != std::string_view::npos) {
      value.push_back(kTo[index]);
      return offset + 1;
    }
    if (c == '\n') return offset + 1;
    if (c == 'x' || c == 'u' || c == 'U')
      return unescape_hex(offset + 1, c == 'x' ? 2 : c == 'u' ? 4 : 8, value);
    if (c >= '0' && c <= '7') {
      char32_t point = 0;
      size_t end = offset;
      for (; end < offset + 3 && peek(end) >= '0' && peek(end) <= '7'; ++end)
        point = point * 8 + (peek(end) - '0');
      append_utf8(value, point);
      return end;
    }
    if (c == 'N') fail(line_, text("the escape \\N in a string is not supported"));
    value.push_back('\\');  // an unknown escape stands for itself
    return offset;
  }

  size_t unescape_hex(size_t offset, size_t count, std::string& value) {
    char32_t point = 0;
    for (size_t i = 0; i < count; ++i) {
      const char digit = peek(offset + i);
      if (std::isxdigit(static_cast<unsigned char>(digit)) == 0)
        fail(line_, text("a broken escape in a string"));
      point = point * 16 + (is_digit(digit) ? digit - '0' : (digit | 0x20) - 'a' + 10);
    }
    if (point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) {
      fail(line_, text("an escape in a string is not a character"));
    }
    append_utf8(value, point);
    return offset + count;
  }

  std::string source_;
  size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the text that follows begins a line
  std::vector<Token> tokens_;
};

}  // namespace

[[noreturn]] void fail(int line, const std::string& what) {
  throw InputError(text("the chat template, line {}: {}", line, what));
}

std::vector<Token> lex(std::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    throw InputError(
        text("the chat template has {} bytes; at most {} are read", source.size(), kMaxTemplateBytes));
  }
  if (!is_valid_utf8(source)) throw InputError(text("the chat template is not valid UTF-8"));
  return Lexer(normalise_newlines(source)).run();
}

}  // namespace onggi::jinja

#include "tokenizer/jinja_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/text.h"
#include "tokenizer/jinja_value.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace onggi::jinja {
namespace {

std::string hex(char32_t c, int digits) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string result;
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) result.push_back(kDigits[c >> shift & 15]);
  return result;
}

// Code points whose upper, lower or title form is not one code point, or depends on the neighbours (Unicode's
// SpecialCasing.txt).
bool has_special_upper(char32_t c) {
  return c == 0xDF || c == 0x149 || c == 0x1F0 || c == 0x390 || c == 0x3B0 || c == 0x587 ||
         (c >= 0x1E96 && c <= 0x1E9A) || (c >= 0x1F50 && c <= 0x1F56) || (c >= 0x1F80 && c <= 0x1FFC) ||
         (c >= 0xFB00 && c <= 0xFB17);
}
bool has_special_lower(char32_t c) { return c == 0x130 || c == 0x3A3; }

char32_t upper_point(char32_t c) {
  if (has_special_upper(c)) throw Fault(text("the upper case of U+{} is not supported", hex(c, 4)));
  return static_cast<char32_t>(utf8proc_toupper(static_cast<int32_t>(c)));
}
char32_t lower_point(char32_t c) {
  if (has_special_lower(c)) throw Fault(text("the lower case of U+{} is not supported", hex(c, 4)));
  return static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(c)));
}
char32_t title_point(char32_t c) {
  if (has_special_upper(c)) throw Fault(text("the title case of U+{} is not supported", hex(c, 4)));
  return static_cast<char32_t>(utf8proc_totitle(static_cast<int32_t>(c)));
}

bool is_cased(char32_t c) {
  const auto category = utf8proc_category(static_cast<int32_t>(c));
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

std::vector<std::string> split_by_space(std::string_view input, int64_t limit) {
  std::vector<std::string> parts;
  size_t position = 0;
  for (;;) {
    const std::string_view rest = strip(input.substr(position), Side::kLeft);
    if (rest.empty()) return parts;
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(rest);
      return parts;
    }
    size_t end = 0, next = 0;
    while (end < rest.size() && !is_python_space(next_code_point(rest, next))) end = next;
    parts.emplace_back(rest.substr(0, end));
    position = input.size() - rest.size() + end;
  }
}

std::vector<std::string> rsplit_by_space(std::string_view input, int64_t limit) {
  std::vector<std::string> parts;
  std::string_view rest = strip(input, Side::kRight);
  while (!rest.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(rest);
      break;
    }
    size_t start = rest.size();
    while (start > 0) {
      size_t before = start - 1;
      while ((static_cast<unsigned char>(rest[before]) & 0xC0) == 0x80) --before;
      size_t after = before;
      if (is_python_space(next_code_point(rest, after))) break;
      start = before;
    }
    parts.emplace_back(rest.substr(start));
    rest = strip(rest.substr(0, start), Side::kRight);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace

std::string format_float(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto scientific =
      std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific);
  std::string shortest(buffer, scientific.ptr);
  const size_t e = shortest.find('e');
  const int exponent = std::stoi(shortest.substr(e + 1));
  if (exponent < -4 || exponent >= 16) {
    // Python writes at least two digits of the exponent, as to_chars does.
    return shortest;
  }
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::fixed);
  std::string result(buffer, fixed.ptr);
  if (result.find('.') == std::string::npos) result += ".0";
  return result;
}

std::string quote(std::string_view input) {
  const bool has_single = input.find('\'') != std::string_view::npos;
  const char mark = has_single && input.find('"') == std::string_view::npos ? '"' : '\'';
  std::string result(1, mark);
  for (size_t position = 0; position < input.size();) {
    const char32_t c = next_code_point(input, position);
    if (c == static_cast<char32_t>(mark) || c == '\\') {
      result.push_back('\\');
      result.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (is_printable(c)) {
      append_utf8(result, c);
    } else {
      result += c < 0x100 ? "\\x" + hex(c, 2) : c < 0x10000 ? "\\u" + hex(c, 4) : "\\U" + hex(c, 8);
    }
  }
  result.push_back(mark);
  return result;
}

std::string quote_json(std::string_view input, bool ascii) {
  std::string result = "\"";
  result.reserve(input.size() + 2);
  for (size_t position = 0; position < input.size();) {
    const char32_t c = next_code_point(input, position);
    switch (c) {
      case '"':
        result += "\\\"";
        break;
      case '\\':
        result += "\\\\";
        break;
      case '\n':
        result += "\\n";
        break;
      case '\r':
        result += "\\r";
        break;
      case '\t':
        result += "\\t";
        break;
      case '\b':
        result += "\\b";
        break;
      case '\f':
        result += "\\f";
        break;
      default:
        if (c < 0x20 || (ascii && c >= 0x7F && c < 0x10000)) {
          result += "\\u" + hex(c, 4);
        } else if (ascii && c >= 0x10000) {
          const char32_t offset = c - 0x10000;
          result += "\\u" + hex(0xD800 + (offset >> 10), 4) + "\\u" + hex(0xDC00 + (offset & 0x3FF), 4);
        } else {
          append_utf8(result, c);
        }
    }
  }
  result.push_back('"');
  return result;
}

std::string_view strip(std::string_view input, Side side, const std::string* chars) {
  std::vector<char32_t> set = chars != nullptr ? code_points(*chars) : std::vector<char32_t>();
  const auto stripped = [&](char32_t c) {
    return chars == nullptr ? is_python_space(c) : std::find(set.begin(), set.end(), c) != set.end();
  };
  size_t begin = 0, end = input.size();
  while (side != Side::kRight && begin < end) {
    size_t after = begin;
    if (!stripped(next_code_point(input, after))) break;
    begin = after;
  }
  while (side != Side::kLeft && end > begin) {
    size_t before = end - 1;
    while ((static_cast<unsigned char>(input[before]) & 0xC0) == 0x80) --before;
    size_t after = before;
    if (!stripped(next_code_point(input, after))) break;
    end = before;
  }
  return input.substr(begin, end - begin);
}

std::vector<std::string> split(std::string_view input, const std::string* separator, int64_t limit) {
  if (separator == nullptr) return split_by_space(input, limit);
  if (separator->empty()) throw Fault(text("split() with an empty separator"));
  std::vector<std::string> parts;
  size_t start = 0;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = input.find(*separator, start);
    if (found == std::string_view::npos) break;
    parts.emplace_back(input.substr(start, found - start));
    start = found + separator->size();
  }
  parts.emplace_back(input.substr(start));
  return parts;
}

std::vector<std::string> rsplit(std::string_view input, const std::string* separator, int64_t limit) {
  if (separator == nullptr) return rsplit_by_space(input, limit);
  if (separator->empty()) throw Fault(text("rsplit() with an empty separator"));
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t found = input.rfind(*separator);
    if (found == std::string_view::npos) break;
    parts.emplace_back(input.substr(found + separator->size()));
    input = input.substr(0, found);
  }
  parts.emplace_back(input);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> split_lines(std::string_view input, bool keep_ends) {
  const auto is_line_end = [](char32_t c) {
    return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
  };
  std::vector<std::string> lines;
  size_t start = 0, position = 0;
  while (position < input.size()) {
    const size_t end = position;
    const char32_t c = next_code_point(input, position);
    if (!is_line_end(c)) continue;
    if (c == '\r' && position < input.size() && input[position] == '\n') ++position;
    lines.emplace_back(input.substr(start, (keep_ends ? position : end) - start));
    start = position;
  }
  if (start < input.size()) lines.emplace_back(input.substr(start));
  return lines;
}

std::string replace(std::string_view input, std::string_view from, std::string_view to, int64_t count) {
  std::string result;
  const auto put = [&](std::string_view part) {
    if (result.size() + part.size() > kMaxBytes)
      throw Fault(text("a string grows beyond {} bytes", kMaxBytes));
    result += part;
  };
  if (from.empty()) {  // before every character and at the end
    size_t position = 0;
    for (int64_t done = 0; count < 0 || done < count; ++done) {
      put(to);
      if (position >= input.size()) return result;
      const size_t start = position;
      next_code_point(input, position);
      put(input.substr(start, position - start));
    }
    put(input.substr(position));
    return result;
  }
  size_t start = 0;
  for (int64_t done = 0; count < 0 || done < count; ++done) {
    const size_t found = input.find(from, start);
    if (found == std::string_view::npos) break;
    put(input.substr(start, found - start));
    put(to);
    start = found + from.size();
  }
  put(input.substr(start));
  return result;
}

std::string upper(std::string_view input) {
  std::string result;
  for (size_t position = 0; position < input.size();)
    append_utf8(result, upper_point(next_code_point(input, position)));
  return result;
}

std::string lower(std::string_view input) {
  std::string result;
  for (size_t position = 0; position < input.size();)
    append_utf8(result, lower_point(next_code_point(input, position)));
  return result;
}

std::string capitalize(std::string_view input) {
  if (input.empty()) return {};
  std::string result;
  size_t position = 0;
  append_utf8(result, title_point(next_code_point(input, position)));
  return result + lower(input.substr(position));
}

std::string title_by_letters(std::string_view input) {
  std::string result;
  bool after_letter = false;
  for (size_t position = 0; position < input.size();) {
    const char32_t c = next_code_point(input, position);
    append_utf8(result, after_letter ? lower_point(c) : title_point(c));
    after_letter = is_cased(c);
  }
  return result;
}

std::string title_by_words(std::string_view input) {
  std::string result;
  bool word_start = true;
  for (size_t position = 0; position < input.size();) {
    const char32_t c = next_code_point(input, position);
    append_utf8(result, word_start ? upper_point(c) : lower_point(c));
    word_start = is_python_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  }
  return result;
}

std::vector<char32_t> code_points(std::string_view input) {
  std::vector<char32_t> points;
  points.reserve(input.size());
  for (size_t position = 0; position < input.size();) points.push_back(next_code_point(input, position));
  return points;
}

std::string from_code_points(const std::vector<char32_t>& points) {
  std::string result;
  result.reserve(points.size());
  for (const char32_t c : points) append_utf8(result, c);
  return result;
}

}  // namespace onggi::jinja

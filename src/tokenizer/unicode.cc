#include "tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace onggi {
namespace {

// True for code points that NFC leaves alone whatever stands beside them: most text is made of these, and
// skips the slow way. Hangul syllables qualify because a following jamo, which would join them, does not.
bool is_inert(char32_t c) {
  return c < 0x300 || (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0x4E00 && c <= 0x9FFF) ||
         (c >= 0x2010 && c <= 0x2027) || (c >= 0x3001 && c <= 0x3029) || (c >= 0x3131 && c <= 0x318E) ||
         c == 0x3000;
}

bool all_inert(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    if (!is_inert(next_code_point(text, position))) return false;
  }
  return true;
}

int combining_class(int32_t c) { return utf8proc_get_property(c)->combining_class; }

// utf8proc orders combining marks by exchanging neighbours, quadratic in the length of a run; a stable sort
// of each run gives the same order.
void sort_combining_marks(std::vector<int32_t>& points) {
  size_t start = 0;
  while (start < points.size()) {
    if (combining_class(points[start]) == 0) {
      ++start;
      continue;
    }
    size_t end = start;
    while (end < points.size() && combining_class(points[end]) != 0) ++end;
    std::stable_sort(points.begin() + start, points.begin() + end,
                     [](int32_t a, int32_t b) { return combining_class(a) < combining_class(b); });
    start = end;
  }
}

}  // namespace

std::string to_nfc(std::string_view text) {
  if (all_inert(text)) return std::string(text);

  std::vector<int32_t> points;
  points.reserve(text.size() / 2);
  size_t position = 0;
  while (position < text.size()) {
    const auto c = static_cast<int32_t>(next_code_point(text, position));
    int32_t decomposed[32];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(
        c, decomposed, 32, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
    ONGGI_CHECK(count >= 0 && count <= 32, "decomposition of a code point");
    points.insert(points.end(), decomposed, decomposed + count);
  }
  sort_combining_marks(points);
  const auto composed =
      utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  ONGGI_CHECK(composed >= 0, "composition");
  std::string result;
  result.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < composed; ++i) append_utf8(result, static_cast<char32_t>(points[i]));
  return result;
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_python_space(char32_t c) { return is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

bool is_word(char32_t c) {
  switch (utf8proc_category(static_cast<int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (utf8proc_category(static_cast<int32_t>(c))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

}  // namespace onggi

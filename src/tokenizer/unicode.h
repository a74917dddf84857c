// Unicode normalisation and character properties, from utf8proc's tables.
#pragma once

#include <string>
#include <string_view>

namespace onggi {

// The NFC form of a valid UTF-8 text, in time n log n for any input.
std::string to_nfc(std::string_view text);

// White_Space, as \s of Rust's and Oniguruma's regular expressions.
bool is_white_space(char32_t c);
// What Python's str.strip() and str.isspace() take for white space: White_Space and U+001C to U+001F.
bool is_python_space(char32_t c);
// \w of Rust's regular expressions: letters, marks, decimal digits, connector punctuation, joiners.
bool is_word(char32_t c);
// Python's str.isprintable().
bool is_printable(char32_t c);

}  // namespace onggi

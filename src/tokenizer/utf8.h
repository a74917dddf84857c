// UTF-8: checks, code points, replacement of broken bytes.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace onggi {

// The bytes of the longest valid prefix; text.size() where all of it is valid. Follows the Unicode standard's
// table of well-formed sequences: no surrogates, nothing above U+10FFFF, no overlong forms.
size_t valid_utf8_prefix(std::string_view text);
inline bool is_valid_utf8(std::string_view text) { return valid_utf8_prefix(text) == text.size(); }

// Reads the code point at position and moves behind it. The text must be valid UTF-8 and position inside it.
char32_t next_code_point(std::string_view text, size_t& position);
// Appends a code point (a valid one) as UTF-8.
void append_utf8(std::string& text, char32_t code_point);
// The number of code points of a valid text.
size_t count_code_points(std::string_view text);

// Replaces each maximal broken part by U+FFFD, as Unicode recommends and Rust's from_utf8_lossy does.
std::string replace_invalid_utf8(std::string_view bytes);
// The length (0 to 3) of an unfinished but so far valid character at the end of bytes.
size_t unfinished_utf8_tail(std::string_view bytes);

}  // namespace onggi

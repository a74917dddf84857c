// Amounts and widths as people read them on a terminal.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace onggi {

// Columns of a terminal that UTF-8 text takes: 2 for Hangul, CJK and full-width forms, 0 for combining marks.
size_t display_width(std::string_view utf8);

// "1.5 GB" (10^9), "312 kB".
std::string bytes_text(double bytes);
// "8.2 B" (10^9), "16.3 M", "4711".
std::string count_text(double count);

}  // namespace onggi

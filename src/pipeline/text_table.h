// Tables as aligned plain text, for terminals with Korean.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace onggi {

// Columns of a terminal that UTF-8 text takes: 2 for Hangul, CJK and full-width forms, 0 for combining marks.
size_t display_width(std::string_view utf8);

// Rows of cells in aligned columns, each line after `indent` spaces; the first column to the left, the others
// as well. Short rows are filled with empty cells.
std::string align_rows(const std::vector<std::vector<std::string>>& rows, size_t indent);

}  // namespace onggi

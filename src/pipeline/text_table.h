// Tables as aligned plain text, for terminals with Korean.
#pragma once

#include <string>
#include <vector>

namespace onggi {

// Rows of cells in aligned columns, each line after `indent` spaces; the first column to the left, the others
// as well. Short rows are filled with empty cells.
std::string align_rows(const std::vector<std::vector<std::string>>& rows, size_t indent);

}  // namespace onggi

#include "pipeline/text_table.h"

#include <algorithm>
#include <array>
#include <cstdint>

namespace onggi {

namespace {

struct Range {
  uint32_t first, last;
};
// Unicode's East Asian Width W and F, as far as model names, Korean and Chinese text and emoji go.
constexpr std::array<Range, 9> kWide{{{0x1100, 0x115F},
                                      {0x2E80, 0x303E},
                                      {0x3041, 0x33FF},
                                      {0x3400, 0x4DBF},
                                      {0x4E00, 0x9FFF},
                                      {0xAC00, 0xD7A3},
                                      {0xF900, 0xFAFF},
                                      {0xFF00, 0xFF60},
                                      {0x1F300, 0x1FAFF}}};
constexpr std::array<Range, 3> kNarrowest{{{0x0300, 0x036F}, {0x1160, 0x11FF}, {0x200B, 0x200F}}};

template <size_t n>
bool is_in(uint32_t code, const std::array<Range, n>& ranges) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](Range r) { return code >= r.first && code <= r.last; });
}

}  // namespace

size_t display_width(std::string_view utf8) {
  size_t width = 0;
  for (size_t i = 0; i < utf8.size();) {
    const auto lead = static_cast<unsigned char>(utf8[i++]);
    uint32_t code = lead < 0x80   ? lead
                    : lead < 0xE0 ? lead & 0x1Fu
                    : lead < 0xF0 ? lead & 0x0Fu
                                  : lead & 0x07u;
    while (i < utf8.size() && (static_cast<unsigned char>(utf8[i]) & 0xC0) == 0x80) {
      code = code << 6 | (static_cast<unsigned char>(utf8[i++]) & 0x3Fu);
    }
    width += is_in(code, kWide) ? 2 : is_in(code, kNarrowest) ? 0 : 1;
  }
  return width;
}

std::string align_rows(const std::vector<std::vector<std::string>>& rows, size_t indent) {
  constexpr size_t kGap = 2;
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line(indent, ' ');
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - display_width(row[i]) + kGap, ' ');
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace onggi

#include "base/human.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>

namespace onggi {
namespace {

struct Range {
  uint32_t first, last;
};
// Unicode's East Asian Width W and F, as far as model names, Korean and Chinese text and emoji go.
constexpr std::array<Range, 12> kWide{{{0x1100, 0x115F},
                                       {0x2E80, 0x303E},
                                       {0x3041, 0x33FF},
                                       {0x3400, 0x4DBF},
                                       {0x4E00, 0x9FFF},
                                       {0xA960, 0xA97C},
                                       {0xAC00, 0xD7A3},
                                       {0xF900, 0xFAFF},
                                       {0xFF00, 0xFF60},
                                       {0xFFE0, 0xFFE6},
                                       {0x1F300, 0x1FAFF},
                                       {0x20000, 0x3FFFD}}};
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

std::string bytes_text(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  while (bytes >= 999.5 && unit + 1 < std::size(units)) {
    bytes /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit > 0 && bytes < 99.95 ? 1 : 0, units[unit]);
}

std::string count_text(double count) {
  if (count >= 1e9) return fmt::format("{:.1f} B", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.1f} M", count / 1e6);
  return fmt::format("{:.0f}", count);
}

}  // namespace onggi

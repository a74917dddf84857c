// The dashboard's files (web/ and chart.js), built into the program.
#pragma once

#include <span>
#include <string_view>

namespace onggi {

struct EmbeddedFile {
  std::string_view name;  // "index.html"
  std::string_view bytes;
};

std::span<const EmbeddedFile> embedded_files();

}  // namespace onggi

#include "base/text.h"

#include <libintl.h>

#include <clocale>
#include <cstdlib>
#include <filesystem>

namespace onggi {
namespace {

// Translations lie beside the program (build tree, unpacked archive) or in the system's folder once
// installed.
std::string translations_folder() {
  std::error_code ignored;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  const auto beside = program.parent_path() / "locale";
  if (std::filesystem::exists(beside, ignored)) return beside.string();
  return (program.parent_path().parent_path() / "share" / "locale").string();
}

}  // namespace

const char* translate(const char* message) { return *message == '\0' ? message : dgettext("onggi", message); }

void set_language(const std::string& language) {
  std::setlocale(LC_ALL, "");
  std::setlocale(LC_NUMERIC, "C");
  if (!language.empty()) {
    setenv("LANGUAGE", language.c_str(), 1);
    // gettext ignores LANGUAGE in the C locale, which is what containers have.
    if (std::setlocale(LC_MESSAGES, "C.UTF-8") == nullptr) std::setlocale(LC_MESSAGES, "en_US.UTF-8");
  }
  bindtextdomain("onggi", translations_folder().c_str());
  bind_textdomain_codeset("onggi", "UTF-8");
}

}  // namespace onggi

#include "base/text.h"

#include <libintl.h>

#include <clocale>
#include <cstdlib>
#include <cstring>
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

// The language that the environment names, by the variables' order of precedence; "" where none does.
std::string language_of_environment() {
  for (const char* name : {"LC_ALL", "LC_MESSAGES", "LANG"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') return std::string(value).substr(0, std::strcspn(value, "_.@"));
  }
  return "";
}

}  // namespace

const char* translate(const char* message) { return *message == '\0' ? message : dgettext("onggi", message); }

void set_language(const std::string& language) {
  // A locale that is not installed, as in containers, still says which language its user reads.
  const bool installed = std::setlocale(LC_ALL, "") != nullptr;
  std::setlocale(LC_NUMERIC, "C");
  const std::string wanted = language.empty() && !installed ? language_of_environment() : language;
  if (!wanted.empty()) {
    setenv("LANGUAGE", wanted.c_str(), 1);
    // gettext ignores LANGUAGE in the C locale, which is what containers have.
    if (std::setlocale(LC_MESSAGES, "C.UTF-8") == nullptr) std::setlocale(LC_MESSAGES, "en_US.UTF-8");
  }
  bindtextdomain("onggi", translations_folder().c_str());
  bind_textdomain_codeset("onggi", "UTF-8");
  bind_textdomain_codeset("libc", "UTF-8");  // the reasons of errno, in the same language
}

}  // namespace onggi

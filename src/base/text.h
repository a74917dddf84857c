// Messages for people: translated with gettext, then formatted with fmt.
#pragma once

#include <fmt/format.h>

#include <string>

namespace onggi {

// The translation of an English message in the language in force; the message itself where there is none.
const char* translate(const char* message);

// Chooses the language of messages: "en", "ko", or "" for the locale of the environment.
void set_language(const std::string& language);

// text("cannot open {}: {}", path, reason): the message translated and filled in. tools/update_translations
// collects the first arguments of text() for po/ko.po.
template <typename... Args>
std::string text(const char* message, const Args&... args) {
  return fmt::vformat(translate(message), fmt::make_format_args(args...));
}

}  // namespace onggi

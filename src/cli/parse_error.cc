#include "cli/parse_error.h"

#include <CLI/CLI.hpp>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "base/text.h"
#include "cli/terminal.h"

namespace onggi {
namespace {

template <typename Kind>
bool is(const CLI::ParseError& error) {
  return dynamic_cast<const Kind*>(&error) != nullptr;
}

// What a sentence holds at the places of a pattern.
std::optional<std::vector<std::string>> parts_of(const std::string& sentence, const char* pattern) {
  std::smatch match;
  if (!std::regex_match(sentence, match, std::regex(pattern))) return std::nullopt;
  return std::vector<std::string>(match.begin() + 1, match.end());
}

// A sentence without the end of what somebody put into it: a whole text given as an argument, say. The
// library's regular expressions need stack for each character.
std::string shortened(const std::string& sentence) {
  constexpr size_t kColumns = 300;
  std::string beginning = fit_columns(sentence, kColumns);
  return beginning.size() == sentence.size() ? sentence : beginning + "...";
}

std::string explain_missing(const std::string& what) {
  if (what == "A subcommand is required") return text("give a command; onggi --help lists them");
  if (const auto parts = parts_of(what, "(.*) is required")) return text("{} is required", (*parts)[0]);
  return what;
}

std::string explain_count(const std::string& what) {
  if (const auto parts = parts_of(what, "(.*): 1 required .* missing"))
    return text("{} needs a value", (*parts)[0]);
  if (const auto parts = parts_of(what, "(.*): ([0-9]+) required .* missing"))
    return text("{} needs {} values", (*parts)[0], (*parts)[1]);
  if (const auto parts = parts_of(what, "(.*): At [Ll]east ([0-9]+) required but received ([0-9]+)"))
    return text("{} needs at least {} values, not {}", (*parts)[0], (*parts)[1], (*parts)[2]);
  if (const auto parts = parts_of(what, "(.*): At [Mm]ost ([0-9]+) required but received ([0-9]+)"))
    return text("{} takes at most {} values, not {}", (*parts)[0], (*parts)[1], (*parts)[2]);
  return what;
}

std::string explain_value(const std::string& what) {
  if (const auto parts = parts_of(what, "Could not convert: (.*) = (.*)"))
    return text("{} cannot be \"{}\"; give a value of the kind that --help shows", (*parts)[0], (*parts)[1]);
  if (const auto parts = parts_of(what, "(.*): (.*) not in \\{(.*)\\}"))
    return text("{} cannot be \"{}\"; it is one of {}", (*parts)[0], (*parts)[1], (*parts)[2]);
  if (const auto parts = parts_of(what, "(.*): Value (.*) not in range \\[?(.*?) (?:to|-) (.*?)\\]?"))
    return text("{} cannot be \"{}\"; it is between {} and {}", (*parts)[0], (*parts)[1], (*parts)[2],
                (*parts)[3]);
  if (const auto parts = parts_of(what, "(.*): (?:File|Directory|Path) does not exist: (.*)"))
    return text("{}: there is no {}", (*parts)[0], (*parts)[1]);
  return what;
}

}  // namespace

std::string explain(const CLI::ParseError& error) {
  // By type: the name of an ExtrasError may be the subcommand's.
  const std::string what = shortened(error.what());
  if (is<CLI::RequiredError>(error)) return explain_missing(what);
  if (is<CLI::ArgumentMismatch>(error)) return explain_count(what);
  if (is<CLI::ConversionError>(error) || is<CLI::ValidationError>(error)) return explain_value(what);
  if (is<CLI::ExtrasError>(error))
    if (const auto parts = parts_of(what, "The following arguments? (?:was|were) not expected: (.*)"))
      return text("{} is not known here; see --help", (*parts)[0]);
  if (is<CLI::ExcludesError>(error))
    if (const auto parts = parts_of(what, "(.*) excludes (.*)"))
      return text("{} and {} cannot be used together", (*parts)[0], (*parts)[1]);
  if (is<CLI::RequiresError>(error))
    if (const auto parts = parts_of(what, "(.*) requires (.*)"))
      return text("{} needs {} with it", (*parts)[0], (*parts)[1]);
  return what;
}

}  // namespace onggi

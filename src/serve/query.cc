#include "serve/query.h"

#include <algorithm>
#include <cctype>

namespace onggi {
namespace {
bool equal_without_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](unsigned char x, unsigned char y) { return std::tolower(x) == std::tolower(y); });
}
}  // namespace

bool is_served(const ServedModel& model, std::string_view name) {
  constexpr std::string_view kLatest = ":latest";
  const auto plain = [&](std::string_view text) {
    return text.ends_with(kLatest) ? text.substr(0, text.size() - kLatest.size()) : text;
  };
  return std::any_of(model.names.begin(), model.names.end(),
                     [&](const std::string& known) { return equal_without_case(plain(known), plain(name)); });
}

ServedModel::Capability renders_tools(std::string_view chat_template) {
  return chat_template.find("tools") != std::string_view::npos ? ServedModel::Capability::kYes
                                                               : ServedModel::Capability::kNo;
}

ServedModel::Capability renders_thinking(std::string_view chat_template) {
  return chat_template.find("<think>") != std::string_view::npos ? ServedModel::Capability::kYes
                                                                 : ServedModel::Capability::kNo;
}

}  // namespace onggi

// A Config as TOML and as JSON, and sizes in bytes as text.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "config/keys.h"

namespace onggi {

namespace {

using nlohmann::ordered_json;

// Each kind of value as JSON; TOML's scalars and lists are then written from it.
struct JsonOf {
  ordered_json operator()(const bool* value) const { return *value; }
  ordered_json operator()(const int64_t* value) const { return *value; }
  ordered_json operator()(const uint64_t* value) const { return *value; }
  ordered_json operator()(const double* value) const { return *value; }
  ordered_json operator()(const std::string* value) const { return *value; }
  ordered_json operator()(const std::optional<int64_t>* value) const {
    return *value ? ordered_json(**value) : ordered_json("auto");
  }
  ordered_json operator()(const ByteSize* value) const { return to_string(*value); }
  ordered_json operator()(const std::optional<ByteSize>* value) const {
    return *value ? to_string(**value) : std::string("auto");
  }
  ordered_json operator()(const ChoiceRef& choice) const {
    const std::string_view name = choice.names[choice.get()];
    if (name == "true" || name == "false") return name == "true";
    return std::string(name);
  }
  ordered_json operator()(const StringListRef& list) const { return *list.value; }
  ordered_json operator()(const std::vector<int64_t>* value) const { return *value; }
};

// The shortest text that reads back as the same double and is a TOML float or integer.
std::string toml_number(double value) {
  std::array<char, 32> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  std::string out(buffer.data(), end);
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  // 2e-04 -> 2e-4, as people write it.
  if (const size_t zero = out.find("e-0"); zero != std::string::npos) out.erase(zero + 2, 1);
  return out;
}

std::string toml_string(const std::string& value) {
  std::string out = "\"";
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\', out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      constexpr std::string_view kDigits = "0123456789ABCDEF";
      out += "\\u00", out += kDigits[byte >> 4], out += kDigits[byte & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string toml_value(const ordered_json& value) {
  if (value.is_string()) return toml_string(value.get<std::string>());
  if (value.is_number_float()) return toml_number(value.get<double>());
  if (!value.is_array()) return value.dump();
  std::string out;
  for (const auto& element : value) out += (out.empty() ? "[" : ", ") + toml_value(element);
  return out.empty() ? "[]" : out + "]";
}

enum class Comments { kWithout, kWith };

std::string print_toml(const Config& config, Comments comments) {
  Config copy = config;
  std::string out, section;
  for (const Key& key : keys_of(copy)) {
    const std::string_view its_section = section_of(key.name);
    if (its_section != section) {
      section = its_section;
      out += "\n[" + section + "]\n";
    }
    if (comments == Comments::kWith && !key.comment.empty()) out += "# " + key.comment + "\n";
    out += std::string(key_in_section(key.name)) + " = " + toml_value(std::visit(JsonOf{}, key.value)) + "\n";
  }
  return out;
}

struct Unit {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array<Unit, 9> kUnits{{{"TB", 1'000'000'000'000},
                                      {"GB", 1'000'000'000},
                                      {"MB", 1'000'000},
                                      {"KB", 1'000},
                                      {"TiB", uint64_t{1} << 40},
                                      {"GiB", uint64_t{1} << 30},
                                      {"MiB", uint64_t{1} << 20},
                                      {"KiB", uint64_t{1} << 10},
                                      {"B", 1}}};

}  // namespace

std::string to_toml(const Config& config) { return print_toml(config, Comments::kWithout); }
std::string to_commented_toml(const Config& config) { return print_toml(config, Comments::kWith); }

std::string to_json(const Config& config) {
  Config copy = config;
  ordered_json out = ordered_json::object();
  for (const Key& key : keys_of(copy)) {
    ordered_json* at = &out;
    std::string_view rest = key.name;
    for (size_t dot; (dot = rest.find('.')) != std::string_view::npos; rest.remove_prefix(dot + 1)) {
      at = &(*at)[std::string(rest.substr(0, dot))];
    }
    ordered_json& value = (*at)[std::string(rest)] = std::visit(JsonOf{}, key.value);
    if (key.name == "server.api_keys") {
      for (auto& secret : value) secret = "***";  // JSON goes into the manifest and reports
    }
  }
  return out.dump(2);
}

std::optional<ByteSize> parse_byte_size(std::string_view text) {
  double amount = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), amount);
  if (error != std::errc{} || !(amount >= 0)) return std::nullopt;
  std::string_view unit = text.substr(static_cast<size_t>(end - text.data()));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  uint64_t factor = unit.empty() ? 1 : 0;
  for (const Unit& known : kUnits) {
    const bool same = std::equal(unit.begin(), unit.end(), known.name.begin(), known.name.end(),
                                 [](char a, char b) { return std::tolower(a) == std::tolower(b); });
    if (same) factor = known.bytes;
  }
  // Doubles hold whole bytes exactly up to 2^53; beyond (9 PB) no machine goes, so refuse rather than round.
  const double bytes = amount * static_cast<double>(factor);
  if (factor == 0 || bytes > 0x1p53) return std::nullopt;
  return ByteSize{static_cast<uint64_t>(std::llround(bytes))};
}

std::string to_string(ByteSize size) {
  for (const Unit& unit : kUnits) {
    if (size.bytes >= unit.bytes && size.bytes % unit.bytes == 0) {
      return std::to_string(size.bytes / unit.bytes) + std::string(unit.name);
    }
  }
  return "0B";
}

}  // namespace onggi

#include "formats/json_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/json_scanner.h"
#include "base/text.h"

namespace onggi {
namespace {

using Json = nlohmann::json;

struct Place {
  size_t line = 1;
  size_t column = 1;
};

Place place_of(std::string_view bytes, size_t offset) {
  const std::string_view before = bytes.substr(0, std::min(offset, bytes.size()));
  const size_t newline = before.rfind('\n');
  return {1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n')),
          1 + (newline == std::string_view::npos ? before.size() : before.size() - newline - 1)};
}

// The parser itself does not recurse, but code that walks the document does; so the depth is bounded before
// it exists.
void check_depth(std::string_view bytes, const std::string& source) {
  JsonScanner scanner;
  for (size_t i = 0; i < bytes.size(); ++i) {
    scanner.next(bytes[i]);
    if (scanner.depth() > kMaxJsonDepth) {
      const Place place = place_of(bytes, i);
      throw InputError(text("{} is nested more than {} levels deep at line {}, column {}", source,
                            kMaxJsonDepth, place.line, place.column));
    }
  }
}

// "parse error ... - unexpected end of input" without the library's prefix and its own line and column.
std::string reason_of(const Json::parse_error& error) {
  std::string reason = error.what();
  const size_t colon = reason.find(": ");
  if (colon != std::string::npos) reason.erase(0, colon + 2);
  return reason;
}

}  // namespace

Json parse_json(std::string_view bytes, const std::string& source) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (bytes.starts_with(kByteOrderMark)) bytes.remove_prefix(kByteOrderMark.size());
  check_depth(bytes, source);
  try {
    return Json::parse(bytes);
  } catch (const Json::parse_error& error) {
    const Place place = place_of(bytes, error.byte > 0 ? error.byte - 1 : 0);
    throw InputError(text("{} is not valid JSON at line {}, column {}: {}", source, place.line, place.column,
                          reason_of(error)));
  } catch (const Json::exception& error) {  // a number out of range
    throw InputError(text("{} is not valid JSON: {}", source, error.what()));
  }
}

Json read_json_file(const fs::path& path, uint64_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path.string());
}

void write_json_file(const fs::path& path, const Json& document) {
  // Bytes that are no UTF-8 (from a file name, say) must not end the work at its last step: they become
  // U+FFFD.
  write_file(path, document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

JsonObject::JsonObject(const Json& value, std::string source) : value_(&value), source_(std::move(source)) {
  if (!value.is_object())
    throw InputError(text("{} must be a JSON object, not {}", source_, value.type_name()));
}

bool JsonObject::has(const char* key) const {
  const auto found = value_->find(key);
  return found != value_->end() && !found->is_null();
}

const Json& JsonObject::at(const char* key) const {
  const auto found = value_->find(key);
  if (found == value_->end()) throw InputError(text("{} lacks the key \"{}\"", source_, key));
  return *found;
}

JsonObject JsonObject::object(const char* key) const {
  if (!at(key).is_object()) wrong_type(key, "an object");
  return JsonObject(at(key), source_ + ": " + key);
}

void JsonObject::wrong_type(const char* key, const char* expected) const {
  throw InputError(
      text("\"{}\" in {} must be {}, not {}", key, source_, translate(expected), at(key).type_name()));
}

int64_t JsonObject::get_int(const char* key) const {
  const Json& value = at(key);
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    wrong_type(key, "an integer of 64 bits");
  if (!value.is_number_integer()) wrong_type(key, "an integer");
  return value.get<int64_t>();
}

double JsonObject::get_number(const char* key) const {
  if (!at(key).is_number()) wrong_type(key, "a number");
  return at(key).get<double>();
}

bool JsonObject::get_bool(const char* key) const {
  if (!at(key).is_boolean()) wrong_type(key, "true or false");
  return at(key).get<bool>();
}

std::string JsonObject::get_string(const char* key) const {
  if (!at(key).is_string()) wrong_type(key, "a string");
  return at(key).get<std::string>();
}

std::vector<std::string> JsonObject::get_strings(const char* key) const {
  const Json& value = at(key);
  if (!value.is_array()) wrong_type(key, "an array of strings");
  std::vector<std::string> strings;
  strings.reserve(value.size());
  for (const Json& element : value) {
    if (!element.is_string()) wrong_type(key, "an array of strings");
    strings.push_back(element.get<std::string>());
  }
  return strings;
}

std::optional<int64_t> JsonObject::find_int(const char* key) const {
  return has(key) ? std::optional(get_int(key)) : std::nullopt;
}

std::optional<double> JsonObject::find_number(const char* key) const {
  return has(key) ? std::optional(get_number(key)) : std::nullopt;
}

std::optional<bool> JsonObject::find_bool(const char* key) const {
  return has(key) ? std::optional(get_bool(key)) : std::nullopt;
}

std::optional<std::string> JsonObject::find_string(const char* key) const {
  return has(key) ? std::optional(get_string(key)) : std::nullopt;
}

}  // namespace onggi

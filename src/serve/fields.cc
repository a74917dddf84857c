#include "serve/fields.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/json_scanner.h"
#include "base/text.h"
#include "serve/request_error.h"

namespace onggi {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxMembers = 2048;

std::string_view article_and_type(const Json& value) {
  if (value.is_string()) return translate("a string");
  if (value.is_boolean()) return translate("a boolean");
  if (value.is_number()) return translate("a number");
  if (value.is_array()) return translate("an array");
  return translate("an object");
}

}  // namespace

std::optional<std::string> beyond_json_limits(std::string_view json) {
  JsonScanner scanner;
  for (const char c : json) {
    scanner.next(c);
    if (scanner.depth() > kMaxDepth)
      return text("the request body is nested deeper than {} levels", kMaxDepth);
    if (scanner.members() > kMaxMembers)
      return text("the request body holds an object with more than {} members", kMaxMembers);
  }
  return std::nullopt;
}

Json parse_request_body(std::string_view body) {
  if (body.empty()) throw RequestError(400, "", text("the request has no body; send a JSON object"));
  if (const auto excess = beyond_json_limits(body)) throw RequestError(400, "", *excess);
  Json value;
  try {
    value = Json::parse(body);
  } catch (const Json::parse_error& error) {
    throw RequestError(400, "", text("the request body is not valid JSON (at byte {})", error.byte));
  } catch (const Json::exception&) {  // a number beyond every type
    throw RequestError(400, "", text("the request body holds a number that is too large"));
  }
  if (!value.is_object())
    throw RequestError(400, "",
                       text("the request body must be a JSON object, not {}", article_and_type(value)));
  return value;
}

std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

Fields::Fields(const Json& object, std::string path) : object_(&object), path_(std::move(path)) {
  if (!object.is_object())
    throw RequestError(400, path_, text("\"{}\" must be an object, not {}", path_, article_and_type(object)));
}

const Json* Fields::find(const char* name) const {
  const auto found = object_->find(name);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

std::string Fields::path_of(std::string_view name) const {
  return path_.empty() ? std::string(name) : path_ + "." + std::string(name);
}

void Fields::fail(const char* name, const std::string& what) const {
  throw RequestError(400, path_of(name), what);
}

namespace {
// A value of the right kind, or nothing; anything else is the client's mistake.
template <typename Check>
const Json* typed(const Fields& fields, const char* name, const char* expected, Check check) {
  const Json* value = fields.find(name);
  if (value != nullptr && !check(*value))
    fields.fail(name, text("\"{}\" must be {}, not {}", fields.path_of(name), translate(expected),
                           article_and_type(*value)));
  return value;
}

void check_range(const Fields& fields, const char* name, double value, NumberRange range) {
  const NumberRange open;
  if (value >= range.low && value <= range.high) return;
  if (range.high == open.high)
    fields.fail(name, text("\"{}\" must be at least {}, not {}", fields.path_of(name), range.low, value));
  fields.fail(name, text("\"{}\" must be between {} and {}, not {}", fields.path_of(name), range.low,
                         range.high, value));
}
}  // namespace

std::string Fields::require_string(const char* name) const {
  auto value = string(name);
  if (!value) fail(name, text("\"{}\" is required and must be a string", path_of(name)));
  return std::move(*value);
}

std::optional<std::string> Fields::string(const char* name) const {
  const Json* value = typed(*this, name, "a string", [](const Json& json) { return json.is_string(); });
  return value == nullptr ? std::nullopt : std::optional(value->get<std::string>());
}

std::optional<bool> Fields::boolean(const char* name) const {
  const Json* value = typed(*this, name, "true or false", [](const Json& json) { return json.is_boolean(); });
  return value == nullptr ? std::nullopt : std::optional(value->get<bool>());
}

std::optional<double> Fields::number(const char* name, NumberRange range) const {
  const Json* value = typed(*this, name, "a number", [](const Json& json) { return json.is_number(); });
  if (value == nullptr) return std::nullopt;
  const double result = value->get<double>();
  check_range(*this, name, result, range);
  return result;
}

std::optional<int64_t> Fields::integer(const char* name, NumberRange range) const {
  // Ollama's clients send whole numbers as 42.0 too.
  const Json* value = typed(*this, name, "a whole number", [](const Json& json) {
    return json.is_number() && std::floor(json.get<double>()) == json.get<double>();
  });
  if (value == nullptr) return std::nullopt;
  constexpr double kExact = 9007199254740992.0;  // 2^53; beyond it a double names no single integer
  if (value->is_number_float() && std::abs(value->get<double>()) > kExact)
    fail(name, text("\"{}\" is too large", path_of(name)));
  if (value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX})
    fail(name, text("\"{}\" is too large", path_of(name)));
  check_range(*this, name, value->get<double>(), range);
  return value->is_number_float() ? static_cast<int64_t>(value->get<double>()) : value->get<int64_t>();
}

std::vector<std::string> Fields::strings(const char* name) const {
  const Json* value = typed(*this, name, "a string or an array of strings",
                            [](const Json& json) { return json.is_string() || json.is_array(); });
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  std::vector<std::string> result;
  for (const Json& entry : *value) {
    if (!entry.is_string())
      fail(name, text("\"{}\" must hold strings only, not {}", path_of(name), article_and_type(entry)));
    result.push_back(entry.get<std::string>());
  }
  return result;
}

const Json* Fields::object(const char* name) const {
  return typed(*this, name, "an object", [](const Json& json) { return json.is_object(); });
}

const Json* Fields::array(const char* name) const {
  return typed(*this, name, "an array", [](const Json& json) { return json.is_array(); });
}

}  // namespace onggi

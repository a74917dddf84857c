// Typed access to the fields of a request body. Every complaint names the field and what it must be.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace onggi {

// Order matters to chat templates (tools) and to readers of answers.
using Json = nlohmann::ordered_json;

// Why JSON from outside may not be parsed; nullopt where it may. The library copies and prints a document by
// recursion, and looks for a member of an object among all before it: both depth (64) and members (2048) are
// bounded.
std::optional<std::string> beyond_json_limits(std::string_view json);

// The JSON object in a request body. Throws RequestError(400) where it is no JSON, no object, or beyond the
// limits.
Json parse_request_body(std::string_view body);

// UTF-8 text of a JSON value; invalid bytes become U+FFFD, so that it never throws.
std::string dump(const Json& value);

// Bounds of a number, both included.
struct NumberRange {
  double low = std::numeric_limits<double>::lowest();
  double high = std::numeric_limits<double>::max();
};

// One object of a body. Absent and null are the same; a wrong type or value is RequestError(400).
class Fields {
 public:
  // path: where the object is ("options"), empty for the body itself. The object must outlive this.
  explicit Fields(const Json& object, std::string path = {});

  // The value, or null where it is absent.
  const Json* find(const char* name) const;
  // The name of a field in messages: "options.temperature".
  std::string path_of(std::string_view name) const;
  [[noreturn]] void fail(const char* name, const std::string& what) const;

  std::string require_string(const char* name) const;
  std::optional<std::string> string(const char* name) const;
  std::optional<bool> boolean(const char* name) const;
  std::optional<double> number(const char* name, NumberRange range = {}) const;
  std::optional<int64_t> integer(const char* name, NumberRange range = {}) const;
  // One string, or an array of strings.
  std::vector<std::string> strings(const char* name) const;
  const Json* object(const char* name) const;
  const Json* array(const char* name) const;

 private:
  const Json* object_;
  std::string path_;
};

}  // namespace onggi

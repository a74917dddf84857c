// JSON documents from outside: bounded in depth and size, with errors that name the file, the place and the
// key.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace onggi {

// Deepest nesting that a document may have; real ones (tokenizer.json, config.json) stay below 10.
inline constexpr int kMaxJsonDepth = 64;

// Parses UTF-8 JSON. `source` names the document in errors. Throws InputError with line and column.
nlohmann::json parse_json(std::string_view bytes, const std::string& source);
// The same of a file. Throws InputError when it is missing, larger than max_bytes or no JSON.
nlohmann::json read_json_file(const fs::path& path, uint64_t max_bytes = uint64_t{256} << 20);
// Pretty-printed with two spaces and a newline at the end, as Hugging Face's files are; atomic.
void write_json_file(const fs::path& path, const nlohmann::json& document);

// One object of a document, with its name for errors. Getters throw InputError that names key and source when
// the value is missing or of another type; find_* give nullopt when the key is missing or null.
class JsonObject {
 public:
  // Throws InputError when value is no object. Both must outlive this.
  JsonObject(const nlohmann::json& value, std::string source);

  bool has(const char* key) const;  // there and not null
  const nlohmann::json& json() const { return *value_; }
  const std::string& source() const { return source_; }
  // The value itself; InputError when missing.
  const nlohmann::json& at(const char* key) const;
  JsonObject object(const char* key) const;

  int64_t get_int(const char* key) const;
  double get_number(const char* key) const;
  bool get_bool(const char* key) const;
  std::string get_string(const char* key) const;
  std::vector<std::string> get_strings(const char* key) const;

  std::optional<int64_t> find_int(const char* key) const;
  std::optional<double> find_number(const char* key) const;
  std::optional<bool> find_bool(const char* key) const;
  std::optional<std::string> find_string(const char* key) const;

 private:
  [[noreturn]] void wrong_type(const char* key, const char* expected) const;

  const nlohmann::json* value_;
  std::string source_;
};

}  // namespace onggi

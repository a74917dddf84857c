// From TOML text and key=value overrides to a checked Config.
#include <algorithm>
#include <cmath>
#include <set>
#include <sstream>

#define TOML_HEADER_ONLY 1
#define TOML_EXCEPTIONS 1
#include <toml++/toml.h>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "config/config.h"
#include "config/keys.h"

namespace onggi {

namespace {

constexpr uint64_t kLargestFile = 1 << 20;

// One value on its way into a key: the TOML node, where it stands, and, for an override, the text as typed.
struct Assignment {
  const Key& key;
  const toml::node& node;
  std::string place;               // "onggi.toml:12" or "command line"
  std::optional<std::string> raw;  // overrides only
};

[[noreturn]] void fail_type(const Assignment& a, const std::string& wanted) {
  throw UsageError(text("{}: {} must be {}", a.place, a.key.name, wanted));
}

std::string joined(std::span<const std::string_view> names) {
  std::string out;
  for (const auto name : names) out += (out.empty() ? "\"" : ", \"") + std::string(name) + "\"";
  return out;
}

std::string number(double value) { return fmt::format("{:g}", value); }

void check_bounds(const Assignment& a, double value) {
  const Bounds& bounds = a.key.bounds;
  if (value >= bounds.minimum && value <= bounds.maximum) return;
  throw UsageError(text("{}: {} = {} is out of bounds: it must lie between {} and {}", a.place, a.key.name,
                        number(value), number(bounds.minimum), number(bounds.maximum)));
}

bool is_auto(const toml::node& node) { return node.value<std::string>() == "auto"; }

int64_t integer_of(const Assignment& a, const toml::node& node, const std::string& wanted) {
  const auto* value = node.as_integer();
  if (value == nullptr) fail_type(a, wanted);
  check_bounds(a, static_cast<double>(value->get()));
  return value->get();
}

std::string string_of(const Assignment& a, const toml::node& node) {
  if (const auto* value = node.as_string()) return value->get();
  // On the command line a name may look like a number or a date: model_name=2024.
  if (a.raw && !node.is_array() && !node.is_table()) return *a.raw;
  fail_type(a, text("a string in quotes"));
}

ByteSize size_of(const Assignment& a, const std::string& wanted) {
  std::optional<ByteSize> size;
  if (const auto* bytes = a.node.as_integer(); bytes != nullptr && bytes->get() > 0) {
    size = ByteSize{static_cast<uint64_t>(bytes->get())};
  } else if (const auto* written = a.node.as_string()) {
    size = parse_byte_size(written->get());
  }
  if (!size || size->bytes == 0) fail_type(a, wanted);
  return *size;
}

// Lists may be typed as a,b,c on the command line.
std::vector<std::string> strings_of(const Assignment& a) {
  std::vector<std::string> out;
  if (const auto* array = a.node.as_array()) {
    for (const auto& element : *array) {
      if (!element.is_string()) fail_type(a, text("a list of strings"));
      out.push_back(element.as_string()->get());
    }
    return out;
  }
  if (!a.raw) fail_type(a, text("a list of strings"));
  std::stringstream words(string_of(a, a.node));
  for (std::string word; std::getline(words, word, ',');) out.push_back(word);
  return out;
}

struct Setter {
  const Assignment& a;

  void operator()(bool* value) const {
    if (!a.node.is_boolean()) fail_type(a, text("true or false"));
    *value = a.node.as_boolean()->get();
  }
  void operator()(int64_t* value) const { *value = integer_of(a, a.node, text("a whole number")); }
  void operator()(uint64_t* value) const {
    *value = static_cast<uint64_t>(integer_of(a, a.node, text("a whole number")));
  }
  void operator()(double* value) const {
    if (!a.node.is_number()) fail_type(a, text("a number"));
    const double given = a.node.value<double>().value_or(NAN);
    if (!std::isfinite(given)) fail_type(a, text("a finite number"));
    check_bounds(a, given);
    *value = given;
  }
  void operator()(std::string* value) const { *value = string_of(a, a.node); }
  void operator()(std::optional<int64_t>* value) const {
    *value = std::nullopt;
    if (!is_auto(a.node)) *value = integer_of(a, a.node, text("a whole number or \"auto\""));
  }
  void operator()(ByteSize* value) const { *value = size_of(a, text("a size such as \"5GB\"")); }
  void operator()(std::optional<ByteSize>* value) const {
    *value = std::nullopt;
    if (!is_auto(a.node)) *value = size_of(a, text("a size such as \"24GB\", or \"auto\""));
  }
  void operator()(const ChoiceRef& choice) const {
    std::string given;
    if (const auto* boolean = a.node.as_boolean()) {
      given = boolean->get() ? "true" : "false";
    } else if (const auto* written = a.node.as_string()) {
      given = written->get();
    } else {
      fail_type(a, text("one of {}", joined(choice.names)));
    }
    const auto found = std::find(choice.names.begin(), choice.names.end(), given);
    if (found == choice.names.end()) {
      throw UsageError(
          text("{}: {} = \"{}\" is not one of {}", a.place, a.key.name, given, joined(choice.names)));
    }
    choice.set(static_cast<size_t>(found - choice.names.begin()));
  }
  void operator()(const StringListRef& list) const {
    std::vector<std::string> given = strings_of(a);
    if (!list.choices.empty()) check_choices(list, given);
    *list.value = std::move(given);
  }
  void operator()(std::vector<int64_t>* value) const {
    const std::string wanted = text("a list of whole numbers");
    std::vector<int64_t> given;
    if (const auto* array = a.node.as_array()) {
      for (const auto& element : *array) given.push_back(integer_of(a, element, wanted));
    } else {
      given.push_back(integer_of(a, a.node, wanted));
    }
    if (given.empty()) fail_type(a, wanted);
    *value = std::move(given);
  }

 private:
  void check_choices(const StringListRef& list, const std::vector<std::string>& given) const {
    if (given.empty())
      throw UsageError(
          text("{}: {} must name at least one of {}", a.place, a.key.name, joined(list.choices)));
    std::set<std::string> seen;
    for (const std::string& word : given) {
      if (std::find(list.choices.begin(), list.choices.end(), word) == list.choices.end()) {
        throw UsageError(text("{}: {} has \"{}\", which is not one of {}", a.place, a.key.name, word,
                              joined(list.choices)));
      }
      if (!seen.insert(word).second) {
        throw UsageError(text("{}: {} has \"{}\" twice", a.place, a.key.name, word));
      }
    }
  }
};

const Key* find_key(const std::vector<Key>& keys, std::string_view name) {
  for (const Key& key : keys) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

[[noreturn]] void fail_unknown(const std::string& place, const std::string& name,
                               const std::vector<Key>& keys) {
  const std::string nearest = nearest_key(name, keys);
  if (nearest.empty()) {
    throw UsageError(
        text("{}: unknown key {}; onggi.toml at the root of the sources lists every key", place, name));
  }
  throw UsageError(text("{}: unknown key {}; did you mean {}?", place, name, nearest));
}

void assign(const Assignment& assignment) { std::visit(Setter{assignment}, assignment.key.value); }

class Loader {
 public:
  explicit Loader(Config& config) : keys_(keys_of(config)) {}

  void read_file_text(std::string_view toml, const std::string& source_name) {
    toml::table table;
    try {
      table = toml::parse(toml, source_name);
    } catch (const toml::parse_error& error) {
      throw UsageError(text("{}:{}:{}: this is not TOML: {}", source_name, error.source().begin.line,
                            error.source().begin.column, std::string(error.description())));
    }
    read_table(table, "", source_name);
  }

  void read_override(const std::string& given) {
    const size_t equals = given.find('=');
    const std::string place = text("command line");
    if (equals == std::string::npos || equals == 0) {
      throw UsageError(text("{}: \"{}\" is not of the form key=value", place, given));
    }
    const std::string name = given.substr(0, equals);
    const std::string value = given.substr(equals + 1);
    const Key* key = find_key(keys_, name);
    if (key == nullptr) fail_unknown(place, name, keys_);
    const toml::table table = value_table(value);
    assign({*key, *table.get("value"), place, value});
  }

 private:
  // The value as TOML where it is TOML, else the text itself as a string: device=cpu needs no quotes.
  static toml::table value_table(const std::string& value) {
    if (value.find('\n') == std::string::npos) {
      try {
        return toml::parse("value = " + value);
      } catch (const toml::parse_error&) {
      }
    }
    toml::table table;
    table.insert("value", value);
    return table;
  }

  void read_table(const toml::table& table, const std::string& prefix, const std::string& source_name) {
    for (const auto& [toml_key, node] : table) {
      const std::string name = prefix + std::string(toml_key.str());
      const std::string place = fmt::format("{}:{}", source_name, toml_key.source().begin.line);
      if (const Key* key = find_key(keys_, name)) {
        assign({*key, node, place, std::nullopt});
      } else if (node.is_table() && is_prefix(name)) {
        read_table(*node.as_table(), name + ".", source_name);
      } else if (is_prefix(name)) {
        throw UsageError(text("{}: {} must be a section: write [{}] and its keys below", place, name, name));
      } else {
        fail_unknown(place, first_leaf(name, node), keys_);
      }
    }
  }

  bool is_prefix(const std::string& name) const {
    return std::any_of(keys_.begin(), keys_.end(),
                       [&](const Key& key) { return key.name.starts_with(name + "."); });
  }

  // For a misspelt section, the first key in it says more than the section alone: trainig.max_steps.
  static std::string first_leaf(std::string name, const toml::node& node) {
    const toml::node* at = &node;
    while (at->is_table() && !at->as_table()->empty()) {
      const auto first = at->as_table()->begin();
      name += "." + std::string(first->first.str());
      at = &first->second;
    }
    return name;
  }

  std::vector<Key> keys_;
};

void resolve_base_name(Config& config, const std::string& source_name) {
  if (config.model_name.empty()) {
    throw UsageError(text("{}: model_name is empty: name a model of the hub or a folder", source_name));
  }
  std::string& base = config.model_base_name;
  if (base == "auto") {
    std::string_view name = config.model_name;
    while (name.size() > 1 && name.ends_with('/')) name.remove_suffix(1);
    base = std::string(name.substr(name.find_last_of('/') + 1));
  }
  // It becomes a part of file names.
  const bool usable = !base.empty() && base != "." && base != ".." && base.size() <= 200 &&
                      base.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
  if (!usable) {
    throw UsageError(text("{}: model_base_name = \"{}\" cannot be a part of file names: choose a plain name",
                          source_name, base));
  }
}

// What no single key can tell.
void check_together(const Config& c, const std::string& source_name) {
  const auto fail = [&](const std::string& what) { throw UsageError(source_name + ": " + what); };
  if (c.cutoff_len > c.max_seq_length) {
    fail(text("cutoff_len = {} is above max_seq_length = {}: a sample must fit into one pass", c.cutoff_len,
              c.max_seq_length));
  }
  if (c.server.port == c.server.ollama_port) {
    fail(text("server.port and server.ollama_port are both {}: give each its own", c.server.port));
  }
  if (c.server.tls_certificate.empty() != c.server.tls_key.empty()) {
    fail(text("server.tls_certificate and server.tls_key belong together: give both or neither"));
  }
  const bool needs_split = c.training.early_stopping_patience > 0 || c.training.load_best_model_at_end;
  if (needs_split && c.data.validation_split <= 0) {
    fail(
        text("training.early_stopping_patience and training.load_best_model_at_end need "
             "data.validation_split above 0"));
  }
  if (c.output_dir.empty()) fail(text("output_dir is empty: name the folder for the results"));
  if (c.data.train_file.empty())
    fail(text("data.train_file is empty: name the file of questions and answers"));
}

}  // namespace

Config parse_config(std::string_view toml, const std::string& source_name,
                    const std::vector<std::string>& overrides) {
  Config config;
  Loader loader(config);
  loader.read_file_text(toml, source_name);
  for (const std::string& given : overrides) loader.read_override(given);
  resolve_base_name(config, source_name);
  check_together(config, source_name);
  return config;
}

Config load_config(const std::optional<fs::path>& file, const std::vector<std::string>& overrides) {
  if (!file) return parse_config("", text("configuration"), overrides);
  return parse_config(read_file(*file, kLargestFile), file->string(), overrides);
}

}  // namespace onggi

// Which JSON a schema allows, as a grammar.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_map>

#include "base/error.h"
#include "base/text.h"
#include "infer/json_grammar.h"

namespace onggi {
namespace {

using G = ByteGrammar;
using Json = nlohmann::ordered_json;
using Rule = ByteGrammar::Rule;

constexpr int kMaxSchemaDepth = 64;
constexpr int64_t kMaxCount = 2000;  // minItems, maxLength, ...

const std::set<std::string, std::less<>> kEnforced = {
    "type",      "properties", "required", "additionalProperties",
    "items",     "minItems",   "maxItems", "minLength",
    "maxLength", "enum",       "const",    "anyOf",
    "allOf",     "$ref"};
// They assert nothing ("format" neither, unless a vocabulary says so, which no client declares).
const std::set<std::string, std::less<>> kAnnotations = {
    "title",       "description", "default",    "examples", "$schema",   "$id",     "$comment", "$defs",
    "definitions", "format",      "deprecated", "readOnly", "writeOnly", "$anchor", "example"};

struct Place {
  std::string path;  // JSON pointer, for errors
  int depth = 0;
  Place inner(const std::string& step) const { return {path + "/" + step, depth + 1}; }
};

class SchemaCompiler {
 public:
  SchemaCompiler(ByteGrammar& grammar, JsonRules& rules, const Json& root)
      : grammar_(grammar), rules_(rules), root_(root) {}

  Rule compile(const Json& schema, const Place& place);

 private:
  [[noreturn]] void refuse(const std::string& keyword, const Place& place) const {
    throw InputError(
        text("the JSON schema has {} at {}, which is not supported; leave it out or use another form",
             keyword, place.path.empty() ? "#" : place.path));
  }
  void check_keywords(const Json& schema, const Place& place) const;
  int64_t count_of(const Json& schema, const char* key, int64_t otherwise, const Place& place) const;
  Rule choice(const std::vector<Rule>& rules);
  Rule reference(const Json& schema, const Place& place);
  Rule of_type(const std::string& type, const Json& schema, const Place& place);
  Rule string_rule(const Json& schema, const Place& place);
  Rule array_rule(const Json& schema, const Place& place);
  Rule object_rule(const Json& schema, const Place& place);
  // A key that is none of these, written without escapes.
  Rule other_key(const std::vector<std::string>& names);
  // At least low and at most high (-1: no bound) repetitions, with what goes between two of them.
  Rule repeat(const G::Sequence& item, const G::Sequence& between, int64_t low, int64_t high);
  Rule literal(const Json& value) { return rules_.literal(value.dump()); }
  Rule rule_of(G::Sequence sequence) {
    const Rule rule = grammar_.add_rule();
    grammar_.add_alternative(rule, std::move(sequence));
    return rule;
  }

  ByteGrammar& grammar_;
  JsonRules& rules_;
  const Json& root_;
  std::map<std::string, Rule> references_;
};

void SchemaCompiler::check_keywords(const Json& schema, const Place& place) const {
  if (!schema.is_object()) refuse(schema.dump(-1, ' ', false, Json::error_handler_t::replace), place);
  for (const auto& [key, value] : schema.items()) {
    if (!kEnforced.contains(key) && !kAnnotations.contains(key)) refuse(key, place);
  }
  for (const char* whole : {"$ref", "anyOf", "allOf", "enum", "const"}) {
    if (!schema.contains(whole)) continue;
    for (const auto& [key, value] : schema.items()) {
      // enum and const beside their type is the usual way to write them.
      const bool type_of_values = key == "type" && (schema.contains("enum") || schema.contains("const"));
      if (key != whole && kEnforced.contains(key) && !type_of_values) refuse(key + " beside " + whole, place);
    }
  }
}

int64_t SchemaCompiler::count_of(const Json& schema, const char* key, int64_t otherwise,
                                 const Place& place) const {
  if (!schema.contains(key)) return otherwise;
  const Json& value = schema.at(key);
  const bool fits = value.is_number_integer() && value >= 0 && value <= kMaxCount;
  if (!fits) refuse(text("{} other than 0 to {}", key, kMaxCount), place);
  return value.get<int64_t>();
}

Rule SchemaCompiler::choice(const std::vector<Rule>& rules) {
  const Rule rule = grammar_.add_rule();
  for (Rule alternative : rules) grammar_.add_alternative(rule, {G::ref(alternative)});
  return rule;
}

Rule SchemaCompiler::reference(const Json& schema, const Place& place) {
  const Json& target = schema.at("$ref");
  if (!target.is_string()) refuse("$ref", place);
  const auto name = target.get<std::string>();
  if (!name.starts_with('#')) refuse("$ref " + name, place);
  if (const auto known = references_.find(name); known != references_.end()) return known->second;
  // Known before it is compiled: schemas refer to themselves.
  const Rule rule = references_[name] = grammar_.add_rule();
  const Json* found = nullptr;
  try {
    found = &root_.at(Json::json_pointer(name.substr(1)));
  } catch (const Json::exception&) {
    throw InputError(text("the JSON schema refers to {} at {}, which is not there", name, place.path));
  }
  grammar_.add_alternative(rule, {G::ref(compile(*found, {name, place.depth + 1}))});
  return rule;
}

Rule SchemaCompiler::compile(const Json& schema, const Place& place) {
  if (place.depth > kMaxSchemaDepth)
    throw InputError(text("the JSON schema is nested too deeply at {}", place.path));
  if (schema.is_boolean() && schema.get<bool>()) return rules_.value;
  check_keywords(schema, place);
  if (schema.contains("$ref")) return reference(schema, place);
  if (schema.contains("const")) return literal(schema.at("const"));
  if (schema.contains("enum")) {
    const Json& values = schema.at("enum");
    if (!values.is_array() || values.empty()) refuse("enum without values", place);
    std::vector<Rule> alternatives;
    for (const Json& value : values) alternatives.push_back(literal(value));
    return choice(alternatives);
  }
  for (const char* key : {"anyOf", "allOf"}) {
    if (!schema.contains(key)) continue;
    const Json& parts = schema.at(key);
    if (!parts.is_array() || parts.empty()) refuse(std::string(key) + " without schemas", place);
    if (std::string_view(key) == "allOf" && parts.size() > 1) refuse("allOf with several schemas", place);
    std::vector<Rule> alternatives;
    for (size_t i = 0; i < parts.size(); ++i) {
      alternatives.push_back(compile(parts[i], place.inner(std::string(key) + "/" + std::to_string(i))));
    }
    return choice(alternatives);
  }
  std::vector<std::string> types;
  if (!schema.contains("type")) {
    if (schema.contains("properties") || schema.contains("required") ||
        schema.contains("additionalProperties")) {
      types = {"object"};
    } else if (schema.contains("items") || schema.contains("minItems") || schema.contains("maxItems")) {
      types = {"array"};
    } else if (schema.contains("minLength") || schema.contains("maxLength")) {
      types = {"string"};
    } else {
      return rules_.value;
    }
  } else if (schema.at("type").is_string()) {
    types = {schema.at("type").get<std::string>()};
  } else if (schema.at("type").is_array()) {
    for (const Json& type : schema.at("type"))
      types.push_back(type.is_string() ? type.get<std::string>() : "");
  }
  if (types.empty()) refuse("type without names", place);
  std::vector<Rule> alternatives;
  for (const std::string& type : types) alternatives.push_back(of_type(type, schema, place));
  return choice(alternatives);
}

Rule SchemaCompiler::of_type(const std::string& type, const Json& schema, const Place& place) {
  if (type == "object") return object_rule(schema, place);
  if (type == "array") return array_rule(schema, place);
  if (type == "string") return string_rule(schema, place);
  if (type == "number") return rules_.number;
  if (type == "integer") return rules_.integer;
  if (type == "boolean") return rules_.boolean;
  if (type == "null") return rules_.null;
  refuse("type " + type, place);
}

Rule SchemaCompiler::repeat(const G::Sequence& item, const G::Sequence& between, int64_t low, int64_t high) {
  const auto joined = [](G::Sequence first, const G::Sequence& second, Rule then) {
    first.insert(first.end(), second.begin(), second.end());
    first.push_back(G::ref(then));
    return first;
  };
  // From the end: `after` is what may follow k items.
  const int64_t counted = high < 0 ? std::max<int64_t>(low, 1) : high;
  Rule after = grammar_.add_rule();
  grammar_.add_alternative(after, {});
  if (high < 0) grammar_.add_alternative(after, joined(between, item, after));
  for (int64_t k = counted - 1; k >= 0; --k) {
    const Rule rule = grammar_.add_rule();
    if (k >= low) grammar_.add_alternative(rule, {});
    grammar_.add_alternative(rule, joined(k == 0 ? G::Sequence{} : between, item, after));
    after = rule;
  }
  return after;
}

Rule SchemaCompiler::string_rule(const Json& schema, const Place& place) {
  const int64_t low = count_of(schema, "minLength", 0, place),
                high = count_of(schema, "maxLength", -1, place);
  if (low == 0 && high < 0) return rules_.string;
  if (high >= 0 && high < low) refuse("maxLength below minLength", place);
  return rule_of({G::byte('"'), G::ref(repeat({G::ref(rules_.character)}, {}, low, high)), G::byte('"')});
}

Rule SchemaCompiler::array_rule(const Json& schema, const Place& place) {
  const int64_t low = count_of(schema, "minItems", 0, place), high = count_of(schema, "maxItems", -1, place);
  if (high >= 0 && high < low) refuse("maxItems below minItems", place);
  const Rule item =
      schema.contains("items") ? compile(schema.at("items"), place.inner("items")) : rules_.value;
  const Rule items =
      repeat({G::ref(item), G::ref(rules_.space)}, {G::byte(','), G::ref(rules_.space)}, low, high);
  return rule_of({G::byte('['), G::ref(rules_.space), G::ref(items), G::byte(']')});
}

Rule SchemaCompiler::other_key(const std::vector<std::string>& names) {
  // A trie over the names: at each node the key may leave it by a character that no name has there.
  const Rule rest = grammar_.add_rule();
  grammar_.add_alternative(rest, {G::byte('"')});
  grammar_.add_alternative(rest, {G::ref(rules_.plain_character), G::ref(rest)});
  std::vector<std::string> written;  // as in the text, with escapes, without quotes
  for (const std::string& name : names) {
    const std::string quoted = Json(name).dump();
    written.push_back(quoted.substr(1, quoted.size() - 2));
  }
  std::sort(written.begin(), written.end());
  // The names from begin to end share their first `depth` bytes. A list, not recursion: names may be long.
  struct Node {
    Rule rule;
    size_t begin, end, depth;
  };
  std::vector<Node> open;
  if (!written.empty()) open.push_back({grammar_.add_rule(), 0, written.size(), 0});
  const Rule root = written.empty() ? rest : open.front().rule;
  while (!open.empty()) {
    const auto [rule, begin, end, depth] = open.back();
    open.pop_back();
    const bool is_name = written[begin].size() == depth;
    if (!is_name) grammar_.add_alternative(rule, {G::byte('"')});
    ByteSet others;
    for (size_t b = 0x20; b < 0x80; ++b)
      others.set(b);  // other characters only after these: names may share bytes
    others.reset('"').reset('\\');
    for (size_t i = begin + (is_name ? 1 : 0); i < end;) {
      const char c = written[i][depth];
      size_t last = i;
      while (last < end && written[last][depth] == c) ++last;
      others.reset(static_cast<unsigned char>(c));
      open.push_back({grammar_.add_rule(), i, last, depth + 1});
      grammar_.add_alternative(rule, {G::byte(static_cast<unsigned char>(c)), G::ref(open.back().rule)});
      i = last;
    }
    grammar_.add_alternative(rule, {G::Element{-1, others}, G::ref(rest)});
  }
  return rule_of({G::byte('"'), G::ref(root)});
}

Rule SchemaCompiler::object_rule(const Json& schema, const Place& place) {
  struct Property {
    std::string name;
    Rule member;
    bool required;
  };
  std::vector<Property> properties;
  std::unordered_map<std::string, size_t> places;  // in properties, by name
  const auto member = [&](Rule key, Rule value) {
    return rule_of({G::ref(key), G::byte(':'), G::ref(rules_.space), G::ref(value), G::ref(rules_.space)});
  };
  const auto add = [&](const std::string& name, Rule value) {
    places[name] = properties.size();
    properties.push_back({name, member(literal(name), value), false});
  };
  if (schema.contains("properties")) {
    const Json& listed = schema.at("properties");
    if (!listed.is_object()) refuse("properties that are no object", place);
    for (const auto& [name, value] : listed.items())
      add(name, compile(value, place.inner("properties/" + name)));
  }
  if (schema.contains("required")) {
    for (const Json& name : schema.at("required")) {
      if (!name.is_string()) refuse("required that is no list of names", place);
      const auto known = name.get<std::string>();
      if (!places.contains(known)) add(known, rules_.value);
      properties[places.at(known)].required = true;
    }
  }
  // Without the keyword anything may follow, but a model is better off when it need not think of more.
  const Json additional = schema.contains("additionalProperties") ? schema.at("additionalProperties")
                                                                  : Json(!schema.contains("properties"));
  Rule first = grammar_.add_rule(), more = grammar_.add_rule();  // behind the last listed one
  grammar_.add_alternative(first, {});
  grammar_.add_alternative(more, {});
  if (additional != false) {
    std::vector<std::string> names;
    for (const Property& property : properties) names.push_back(property.name);
    const Rule value = compile(additional, place.inner("additionalProperties"));
    const Rule other = member(other_key(names), value);
    grammar_.add_alternative(first, {G::ref(other), G::ref(more)});
    grammar_.add_alternative(more, {G::byte(','), G::ref(rules_.space), G::ref(other), G::ref(more)});
  }
  for (size_t i = properties.size(); i-- > 0;) {
    const Rule first_here = grammar_.add_rule(), more_here = grammar_.add_rule();
    const G::Element here = G::ref(properties[i].member);
    grammar_.add_alternative(first_here, {here, G::ref(more)});
    grammar_.add_alternative(more_here, {G::byte(','), G::ref(rules_.space), here, G::ref(more)});
    if (!properties[i].required) {
      grammar_.add_alternative(first_here, {G::ref(first)});
      grammar_.add_alternative(more_here, {G::ref(more)});
    }
    first = first_here;
    more = more_here;
  }
  return rules_.braces(first);
}

}  // namespace

Rule add_schema(ByteGrammar& grammar, JsonRules& rules, const Json& schema) {
  return SchemaCompiler(grammar, rules, schema).compile(schema, Place{});
}

}  // namespace onggi

#include "tokenizer/jinja_value.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "tokenizer/jinja_text.h"
#include "tokenizer/utf8.h"

namespace onggi::jinja {
namespace {

constexpr int kMaxDepth = 200;
constexpr uint64_t kScalarWeight = 16;

void check_item(const Value& item) {
  if (!item.is_data()) throw Fault(text("a {} inside a list or dict is not supported", type_name(item)));
}

void check_size(int depth, uint64_t weight) {
  if (depth > kMaxDepth) throw Fault(text("a value is nested deeper than {}", kMaxDepth));
  if (weight > kMaxBytes) throw Fault(text("a value takes more than {} bytes", kMaxBytes));
}

bool is_key(const Value& value) { return value.is_string() || value.is_none() || value.is_number(); }

bool equal_sequences(const Sequence& a, const Sequence& b) {
  return a.items.size() == b.items.size() &&
         std::equal(a.items.begin(), a.items.end(), b.items.begin(), equal);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.items.size() != b.items.size()) return false;
  return std::all_of(a.items.begin(), a.items.end(), [&](const auto& item) {
    const Value* other = b.find(item.first);
    return other != nullptr && equal(item.second, *other);
  });
}

bool is_ordered_sequence(const Value& value) {
  return value.is_sequence(SequenceKind::kList) || value.is_sequence(SequenceKind::kTuple);
}

std::string represent_items(const Sequence& sequence) {
  const bool is_tuple = sequence.kind == SequenceKind::kTuple;
  std::string result = is_tuple ? "(" : "[";
  for (size_t i = 0; i < sequence.items.size(); ++i) {
    if (i > 0) result += ", ";
    result += represent(sequence.items[i]);
  }
  if (is_tuple && sequence.items.size() == 1) result += ",";
  return result + (is_tuple ? ")" : "]");
}

std::string represent_items(const Dict& dict) {
  std::string result = "{";
  for (size_t i = 0; i < dict.items.size(); ++i) {
    if (i > 0) result += ", ";
    result += represent(dict.items[i].first) + ": " + represent(dict.items[i].second);
  }
  return result + "}";
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  void write(const Value& value, int level) {
    if (value.is_string()) {
      out += quote_json(value.string(), style_.ensure_ascii);
    } else if (value.is_dict()) {
      write_dict(value.dict(), level);
    } else if (is_ordered_sequence(value)) {
      const auto& items = value.sequence().items;
      surround("[]", items.size(), level, [&](size_t i) { write(items[i], level + 1); });
    } else {
      out += scalar(value);
    }
  }

  std::string out;

 private:
  template <typename Item>
  void surround(const char* brackets, size_t count, int level, const Item& item) {
    out.push_back(brackets[0]);
    for (size_t i = 0; i < count; ++i) {
      if (i > 0) out += style_.item_separator;
      if (style_.has_indent) new_line(level + 1);
      item(i);
    }
    if (count > 0 && style_.has_indent) new_line(level);
    out.push_back(brackets[1]);
  }

  void new_line(int level) {
    out.push_back('\n');
    for (int i = 0; i < level; ++i) out += style_.indent;
    if (out.size() > 4 * kMaxBytes)
      throw Fault(text("the JSON text of a value takes more than {} bytes", out.size()));
  }

  void write_dict(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [](const auto* a, const auto* b) { return less(a->first, b->first); });
    }
    surround("{}", items.size(), level, [&](size_t i) {
      const Value& key = items[i]->first;
      out += key.is_string() ? quote_json(key.string(), style_.ensure_ascii) : "\"" + scalar(key) + "\"";
      out += style_.key_separator;
      write(items[i]->second, level + 1);
    });
  }

  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is<bool>()) return value.as<bool>() ? "true" : "false";
    if (value.is_integer()) return std::to_string(value.as<int64_t>());
    if (value.is<double>()) {
      const std::string number = format_float(value.as<double>());
      if (number == "nan") return "NaN";
      if (number == "inf") return "Infinity";
      return number == "-inf" ? "-Infinity" : number;
    }
    if (value.is_undefined())
      throw Fault(text("tojson of \"{}\", which is undefined", value.as<Undefined>().name));
    throw Fault(text("tojson of a {}", type_name(value)));
  }

  const JsonStyle& style_;
};

Value from_json_at(const nlohmann::ordered_json& json, int depth) {
  using Type = nlohmann::ordered_json::value_t;
  if (depth > kMaxDepth) throw Fault(text("the messages are nested deeper than {}", kMaxDepth));
  switch (json.type()) {
    case Type::null:
      return None{};
    case Type::boolean:
      return json.get<bool>();
    case Type::number_integer:
      return json.get<int64_t>();
    case Type::number_unsigned:
      if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
        throw Fault(text("the number {} has more than 64 bits", json.get<uint64_t>()));
      }
      return json.get<int64_t>();
    case Type::number_float:
      return json.get<double>();
    case Type::string: {
      const auto& string = json.get_ref<const std::string&>();
      if (!is_valid_utf8(string)) throw Fault(text("a text of the messages is not valid UTF-8"));
      return string;
    }
    case Type::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json_at(item, depth + 1));
      return make_sequence(std::move(items));
    }
    case Type::object: {
      std::vector<std::pair<Value, Value>> items;
      items.reserve(json.size());
      for (const auto& [key, item] : json.items()) {
        if (!is_valid_utf8(key)) throw Fault(text("a key of the messages is not valid UTF-8"));
        items.emplace_back(Value(key), from_json_at(item, depth + 1));
      }
      return make_dict(std::move(items));
    }
    default:
      throw Fault(text("binary data in the messages"));
  }
}

}  // namespace

const Value* Dict::find(std::string_view key) const {
  const auto found = by_text.find(std::string(key));
  return found == by_text.end() ? nullptr : &items[found->second].second;
}

const Value* Dict::find(const Value& key) const {
  if (key.is_string()) return find(std::string_view(key.string()));
  if (!is_key(key)) return nullptr;
  for (const auto& [have, value] : items) {
    if (!have.is_string() && equal(have, key)) return &value;
  }
  return nullptr;
}

void Dict::set(const Value& key, Value value) {
  if (const Value* have = find(key)) {
    *const_cast<Value*>(have) = std::move(value);  // the dict itself is not const here
    return;
  }
  if (key.is_string()) by_text.emplace(key.string(), items.size());
  items.emplace_back(key, std::move(value));
}

Value Value::markup(std::string text) {
  Value value;
  value.data_ = std::make_shared<const String>(String{std::move(text), true});
  return value;
}

bool Value::is_data() const {
  return !is<std::shared_ptr<Namespace>>() && !is<std::shared_ptr<const LoopState>>() && !is<Macro>() &&
         !is<Function>();
}

int64_t Value::integer() const {
  if (is_integer()) return as<int64_t>();
  if (is<bool>()) return as<bool>() ? 1 : 0;
  if (is_undefined()) throw Fault(text("\"{}\" is undefined", as<Undefined>().name));
  throw Fault(text("a number is needed, not a {}", type_name(*this)));
}

double Value::real() const { return is<double>() ? as<double>() : static_cast<double>(integer()); }

int Value::depth() const { return is_sequence() ? sequence().depth : is_dict() ? dict().depth : 0; }

uint64_t Value::weight() const {
  if (is_string()) return kScalarWeight + string().size();
  return is_sequence() ? sequence().weight : is_dict() ? dict().weight : kScalarWeight;
}

Value make_sequence(std::vector<Value> items, SequenceKind kind) {
  auto sequence = std::make_shared<Sequence>();
  sequence->kind = kind;
  sequence->weight = kScalarWeight;
  for (const Value& item : items) {
    check_item(item);
    sequence->depth = std::max(sequence->depth, item.depth() + 1);
    sequence->weight += item.weight();
  }
  check_size(sequence->depth, sequence->weight);
  sequence->items = std::move(items);
  return SequencePtr(std::move(sequence));
}

Value make_dict(std::vector<std::pair<Value, Value>> items) {
  auto dict = std::make_shared<Dict>();
  dict->weight = kScalarWeight;
  for (auto& [key, value] : items) {
    if (!is_key(key)) throw Fault(text("a {} as the key of a dict is not supported", type_name(key)));
    check_item(value);
    dict->depth = std::max(dict->depth, value.depth() + 1);
    dict->weight += key.weight() + value.weight();
    dict->set(key, std::move(value));
  }
  check_size(dict->depth, dict->weight);
  return DictPtr(std::move(dict));
}

std::string type_name(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "NoneType";
  if (value.is<bool>()) return "bool";
  if (value.is_integer()) return "int";
  if (value.is<double>()) return "float";
  if (value.is_string()) return "str";
  if (value.is_dict()) return "dict";
  if (value.is<std::shared_ptr<Namespace>>()) return "Namespace";
  if (value.is<std::shared_ptr<const LoopState>>()) return "LoopContext";
  if (value.is<Macro>()) return "Macro";
  if (value.is<Function>()) return "function";
  switch (value.sequence().kind) {
    case SequenceKind::kList:
      return "list";
    case SequenceKind::kTuple:
      return "tuple";
    case SequenceKind::kGenerator:
      return "generator";
    case SequenceKind::kView:
      return "view";
  }
  return "object";
}

bool truthy(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is<bool>()) return value.as<bool>();
  if (value.is_integer()) return value.as<int64_t>() != 0;
  if (value.is<double>()) return value.as<double>() != 0;
  if (value.is_string()) return !value.string().empty();
  if (value.is_dict()) return !value.dict().items.empty();
  if (value.is_sequence())
    return value.sequence().kind == SequenceKind::kGenerator || !value.sequence().items.empty();
  return true;
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is<double>() || b.is<double>()) return a.real() == b.real();
    return a.integer() == b.integer();
  }
  if (a.is_string() && b.is_string()) return a.string() == b.string();
  if (a.is_none() && b.is_none()) return true;
  if (a.is_undefined() && b.is_undefined()) return true;
  if (a.is_dict() && b.is_dict()) return equal_dicts(a.dict(), b.dict());
  if (is_ordered_sequence(a) && is_ordered_sequence(b)) {
    return a.sequence().kind == b.sequence().kind && equal_sequences(a.sequence(), b.sequence());
  }
  if (a.is_sequence() && b.is_sequence()) return a.as<SequencePtr>() == b.as<SequencePtr>();
  if (!a.is_data() && !b.is_data()) throw Fault(text("comparing a {} is not supported", type_name(a)));
  return false;
}

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is<double>() || b.is<double>()) return a.real() < b.real();
    return a.integer() < b.integer();
  }
  if (a.is_string() && b.is_string())
    return a.string() < b.string();  // byte order is code point order in UTF-8
  if (is_ordered_sequence(a) && is_ordered_sequence(b) && a.sequence().kind == b.sequence().kind) {
    const auto &left = a.sequence().items, &right = b.sequence().items;
    for (size_t i = 0; i < left.size() && i < right.size(); ++i) {
      if (!equal(left[i], right[i])) return less(left[i], right[i]);
    }
    return left.size() < right.size();
  }
  for (const Value* value : {&a, &b}) {
    if (value->is_undefined()) throw Fault(text("\"{}\" is undefined", value->as<Undefined>().name));
  }
  throw Fault(text("a {} and a {} cannot be ordered", type_name(a), type_name(b)));
}

bool contains(const Value& haystack, const Value& needle) {
  if (haystack.is_string()) {
    if (!needle.is_string())
      throw Fault(text("\"in\" of a string needs a string, not a {}", type_name(needle)));
    return haystack.string().find(needle.string()) != std::string::npos;
  }
  if (haystack.is_dict()) {
    if (!is_key(needle) && !needle.is_undefined()) {
      throw Fault(text("a {} cannot be the key of a dict", type_name(needle)));
    }
    return haystack.dict().find(needle) != nullptr;
  }
  if (haystack.is_undefined()) return false;
  if (!haystack.is_sequence()) throw Fault(text("\"in\" of a {}", type_name(haystack)));
  const std::vector<Value> items = iterate(haystack);
  return std::any_of(items.begin(), items.end(), [&](const Value& item) { return equal(item, needle); });
}

int64_t length(const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_string()) return static_cast<int64_t>(count_code_points(value.string()));
  if (value.is_dict()) return static_cast<int64_t>(value.dict().items.size());
  if (value.is_sequence() && !value.is_sequence(SequenceKind::kGenerator)) {
    return static_cast<int64_t>(value.sequence().items.size());
  }
  throw Fault(text("a {} has no length", type_name(value)));
}

std::vector<Value> iterate(const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (value.is_sequence()) {
    const Sequence& sequence = value.sequence();
    if (sequence.kind != SequenceKind::kGenerator) return sequence.items;
    items.assign(sequence.items.begin() + static_cast<std::ptrdiff_t>(sequence.taken), sequence.items.end());
    sequence.taken = sequence.items.size();
    return items;
  }
  if (value.is_dict()) {
    for (const auto& [key, item] : value.dict().items) items.push_back(key);
    return items;
  }
  if (value.is_string()) {
    const std::string& string = value.string();
    for (size_t position = 0; position < string.size();) {
      const size_t start = position;
      next_code_point(string, position);
      items.emplace_back(string.substr(start, position - start));
    }
    return items;
  }
  throw Fault(text("a {} cannot be iterated over", type_name(value)));
}

std::string to_text(const Value& value) {
  if (value.is_string()) return value.string();
  if (value.is_undefined()) return {};
  return represent(value);
}

std::string represent(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "None";
  if (value.is<bool>()) return value.as<bool>() ? "True" : "False";
  if (value.is_integer()) return std::to_string(value.as<int64_t>());
  if (value.is<double>()) return format_float(value.as<double>());
  if (value.is_string()) return quote(value.string());
  if (value.is_dict()) return represent_items(value.dict());
  if (is_ordered_sequence(value)) return represent_items(value.sequence());
  throw Fault(text("a {} cannot be written out", type_name(value)));
}

Value from_json(const nlohmann::ordered_json& json) { return from_json_at(json, 0); }

std::string to_json(const Value& value, const JsonStyle& style) {
  JsonWriter writer(style);
  writer.write(value, 0);
  return std::move(writer.out);
}

}  // namespace onggi::jinja

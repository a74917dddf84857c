// Methods of strings, dicts, lists and loops, and the global functions.
#include <algorithm>
#include <ctime>
#include <functional>
#include <map>

#include "base/text.h"
#include "tokenizer/jinja_filters.h"
#include "tokenizer/jinja_text.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace onggi::jinja {
namespace {

constexpr int64_t kMaxRange = 100000;  // as MAX_RANGE of Jinja's sandbox

const std::string* optional_text(const Value* value, std::string_view callee) {
  if (value == nullptr || value->is_none()) return nullptr;
  if (!value->is_string()) throw Fault(text("{}() needs a string, not a {}", callee, type_name(*value)));
  return &value->string();
}

const std::string& required_text(const Value* value, std::string_view callee) {
  const std::string* result = optional_text(value, callee);
  if (result == nullptr) throw Fault(text("{}() needs a string", callee));
  return *result;
}

Value make_list(const std::vector<std::string>& strings) {
  return make_sequence(std::vector<Value>(strings.begin(), strings.end()));
}

// startswith and endswith: a string or a tuple of strings.
bool has_affix(const std::string& subject, const Arguments& arguments, Side side, std::string_view callee) {
  const auto bound = bind(arguments, callee, {"affix"});
  if (bound[0] == nullptr) throw Fault(text("{}() needs a string", callee));
  const auto matches = [&](const Value& affix) {
    const std::string& part = required_text(&affix, callee);
    if (part.size() > subject.size()) return false;
    return subject.compare(side == Side::kLeft ? 0 : subject.size() - part.size(), part.size(), part) == 0;
  };
  if (!bound[0]->is_sequence(SequenceKind::kTuple)) return matches(*bound[0]);
  const auto& affixes = bound[0]->sequence().items;
  return std::any_of(affixes.begin(), affixes.end(), matches);
}

int64_t count_of(const std::string& subject, const std::string& part) {
  if (part.empty()) return static_cast<int64_t>(count_code_points(subject)) + 1;
  int64_t count = 0;
  for (size_t found = subject.find(part); found != std::string::npos;
       found = subject.find(part, found + part.size())) {
    ++count;
  }
  return count;
}

// Python counts in characters.
Value position_of(const std::string& subject, size_t byte) {
  if (byte == std::string::npos) return int64_t{-1};
  return static_cast<int64_t>(count_code_points(std::string_view(subject).substr(0, byte)));
}

bool all_ascii(const std::string& subject, bool (*is)(unsigned char), std::string_view callee) {
  for (const char c : subject) {
    if (static_cast<unsigned char>(c) >= 0x80) throw Fault(text("{}() of characters beyond ASCII", callee));
  }
  return !subject.empty() && std::all_of(subject.begin(), subject.end(), [&](char c) { return is(c); });
}

bool is_ascii_digit(unsigned char c) { return c >= '0' && c <= '9'; }
bool is_ascii_letter(unsigned char c) { return (c | 0x20) >= 'a' && (c | 0x20) <= 'z'; }
bool is_ascii_letter_or_digit(unsigned char c) { return is_ascii_digit(c) || is_ascii_letter(c); }

Value join_texts(const std::string& separator, const Value& items) {
  std::string result;
  bool first = true;
  for (const Value& item : iterate(items)) {
    if (!item.is_string()) throw Fault(text("join() needs strings, not a {}", type_name(item)));
    if (!first) result += separator;
    first = false;
    result += item.string();
    if (result.size() > kMaxBytes) throw Fault(text("a string grows beyond {} bytes", kMaxBytes));
  }
  return result;
}

using TextMethod = Value (*)(const std::string& self, const Arguments& arguments);

template <Side side>
Value strip_method(const std::string& self, const Arguments& arguments) {
  return std::string(strip(self, side, optional_text(bind(arguments, "strip", {"chars"})[0], "strip")));
}

template <auto function>
Value split_method(const std::string& self, const Arguments& arguments) {
  const auto bound = bind(arguments, "split", {"sep", "maxsplit"});
  return make_list(function(self, optional_text(bound[0], "split"),
                            bound[1] == nullptr ? int64_t{-1} : bound[1]->integer()));
}

template <auto function>
Value case_method(const std::string& self, const Arguments& arguments) {
  bind(arguments, "upper, lower, title, capitalize", {});
  return function(self);
}

template <bool (*is)(unsigned char)>
Value class_method(const std::string& self, const Arguments& arguments) {
  bind(arguments, "isdigit, isalpha, isalnum", {});
  return all_ascii(self, is, "isdigit, isalpha, isalnum");
}

Value replace_method(const std::string& self, const Arguments& arguments) {
  const auto bound = bind(arguments, "replace", {"old", "new", "count"});
  return replace(self, required_text(bound[0], "replace"), required_text(bound[1], "replace"),
                 bound[2] == nullptr ? -1 : bound[2]->integer());
}

Value remove_prefix(const std::string& self, const Arguments& arguments) {
  const std::string& part = required_text(bind(arguments, "removeprefix", {"prefix"})[0], "removeprefix");
  return self.compare(0, part.size(), part) == 0 ? self.substr(part.size()) : self;
}

Value remove_suffix(const std::string& self, const Arguments& arguments) {
  const std::string& part = required_text(bind(arguments, "removesuffix", {"suffix"})[0], "removesuffix");
  const bool ends =
      part.size() <= self.size() && self.compare(self.size() - part.size(), part.size(), part) == 0;
  return ends ? self.substr(0, self.size() - part.size()) : self;
}

Value split_lines_method(const std::string& self, const Arguments& arguments) {
  const auto bound = bind(arguments, "splitlines", {"keepends"});
  return make_list(split_lines(self, bound[0] != nullptr && truthy(*bound[0])));
}

Value is_space_method(const std::string& self, const Arguments& arguments) {
  bind(arguments, "isspace", {});
  const auto points = code_points(self);
  return !points.empty() && std::all_of(points.begin(), points.end(), is_python_space);
}

const std::map<std::string_view, TextMethod>& text_methods() {
  static const std::map<std::string_view, TextMethod> methods = {
      {"strip", strip_method<Side::kBoth>},
      {"lstrip", strip_method<Side::kLeft>},
      {"rstrip", strip_method<Side::kRight>},
      {"split", split_method<split>},
      {"rsplit", split_method<rsplit>},
      {"splitlines", split_lines_method},
      {"replace", replace_method},
      {"upper", case_method<upper>},
      {"lower", case_method<lower>},
      {"title", case_method<title_by_letters>},
      {"capitalize", case_method<capitalize>},
      {"isdigit", class_method<is_ascii_digit>},
      {"isalpha", class_method<is_ascii_letter>},
      {"isalnum", class_method<is_ascii_letter_or_digit>},
      {"isspace", is_space_method},
      {"removeprefix", remove_prefix},
      {"removesuffix", remove_suffix},
      {"startswith",
       [](const std::string& s, const Arguments& a) -> Value {
         return has_affix(s, a, Side::kLeft, "startswith");
       }},
      {"endswith",
       [](const std::string& s, const Arguments& a) -> Value {
         return has_affix(s, a, Side::kRight, "endswith");
       }},
      {"find",
       [](const std::string& s, const Arguments& a) {
         return position_of(s, s.find(required_text(bind(a, "find", {"sub"})[0], "find")));
       }},
      {"rfind",
       [](const std::string& s, const Arguments& a) {
         return position_of(s, s.rfind(required_text(bind(a, "rfind", {"sub"})[0], "rfind")));
       }},
      {"count",
       [](const std::string& s, const Arguments& a) -> Value {
         return count_of(s, required_text(bind(a, "count", {"sub"})[0], "count"));
       }},
      {"join",
       [](const std::string& s, const Arguments& a) {
         const auto bound = bind(a, "join", {"iterable"});
         if (bound[0] == nullptr) throw Fault(text("join() needs a list"));
         return join_texts(s, *bound[0]);
       }},
  };
  return methods;
}

Value dict_method(const Dict& dict, const std::string& name, const Arguments& arguments) {
  if (name == "get") {
    const auto bound = bind(arguments, "get", {"key", "default"});
    if (bound[0] == nullptr) throw Fault(text("get() needs a key"));
    if (const Value* value = dict.find(*bound[0])) return *value;
    return bound[1] == nullptr ? Value(None{}) : *bound[1];
  }
  std::vector<Value> items;
  if (name == "items" || name == "keys" || name == "values") {
    bind(arguments, name, {});
    for (const auto& [key, value] : dict.items) {
      items.push_back(name == "keys"     ? key
                      : name == "values" ? value
                                         : make_sequence({key, value}, SequenceKind::kTuple));
    }
    return make_sequence(std::move(items), SequenceKind::kView);
  }
  if (const Value* value = dict.find(std::string_view(name))) {
    throw Fault(text("\"{}\" is a {} and cannot be called", name, type_name(*value)));
  }
  throw Fault(text("the method \"{}\" of a dict is not supported", name));
}

Value list_method(const Value& object, const std::string& name, const Arguments& arguments) {
  const auto& items = object.sequence().items;
  if (name == "count" || name == "index") {
    const auto bound = bind(arguments, name, {"value"});
    if (bound[0] == nullptr) throw Fault(text("{}() needs a value", name));
    const auto is_it = [&](const Value& item) { return equal(item, *bound[0]); };
    if (name == "count") return static_cast<int64_t>(std::count_if(items.begin(), items.end(), is_it));
    const auto found = std::find_if(items.begin(), items.end(), is_it);
    if (found == items.end()) throw Fault(text("index(): the value is not in the list"));
    return static_cast<int64_t>(found - items.begin());
  }
  throw Fault(text("the method \"{}\" of a {} is not supported (templates may not change lists)", name,
                   type_name(object)));
}

Value loop_method(const LoopState& loop, const std::string& name, const Arguments& arguments) {
  if (name == "cycle") {
    if (arguments.positional.empty()) throw Fault(text("loop.cycle() needs values"));
    return arguments.positional[loop.index % arguments.positional.size()];
  }
  if (name == "changed") {
    const auto& now = arguments.positional;
    for (const Value& value : now) {
      if (!value.is_data()) throw Fault(text("loop.changed() of a {} is not supported", type_name(value)));
    }
    const bool same = loop.has_changed && now.size() == loop.last_changed.size() &&
                      std::equal(now.begin(), now.end(), loop.last_changed.begin(), equal);
    loop.last_changed = now;
    loop.has_changed = true;
    return !same;
  }
  throw Fault(text("\"loop.{}()\" is not supported", name));
}

Value make_range(const Arguments& arguments) {
  const auto& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.named.empty())
    throw Fault(text("range() needs 1 to 3 numbers"));
  const int64_t start = given.size() > 1 ? given[0].integer() : 0;
  const int64_t stop = given.size() > 1 ? given[1].integer() : given[0].integer();
  const int64_t step = given.size() > 2 ? given[2].integer() : 1;
  if (step == 0) throw Fault(text("range() with step zero"));
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) {
      throw Fault(text("range() of more than {} numbers", kMaxRange));
    }
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return make_sequence(std::move(items), SequenceKind::kView);
}

// dict(...) and namespace(...): a dict, then names.
std::vector<std::pair<Value, Value>> dict_items(const Arguments& arguments, std::string_view callee) {
  if (arguments.positional.size() > 1) throw Fault(text("{}() takes at most one value without name", callee));
  std::vector<std::pair<Value, Value>> items;
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.is_dict()) {
      items = source.dict().items;
    } else {
      for (const Value& pair : iterate(source)) {
        const std::vector<Value> both = iterate(pair);
        if (both.size() != 2) throw Fault(text("{}() needs pairs", callee));
        items.emplace_back(both[0], both[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) items.emplace_back(Value(name), value);
  return items;
}

Value make_namespace(const Arguments& arguments) {
  const Value dict = make_dict(dict_items(arguments, "namespace"));  // checks what it holds
  auto space = std::make_shared<Namespace>();
  for (const auto& [key, value] : dict.dict().items) space->attributes.emplace_back(to_text(key), value);
  return space;
}

Value format_now(const Arguments& arguments) {
  const std::string& format = required_text(bind(arguments, "strftime_now", {"format"})[0], "strftime_now");
  if (format.empty()) return std::string();
  if (format.size() > 1000) throw Fault(text("the format of strftime_now() is longer than {} bytes", 1000));
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string buffer(format.size() * 32 + 256, '\0');
  buffer.resize(std::strftime(buffer.data(), buffer.size(), format.c_str(), &local));
  if (!is_valid_utf8(buffer)) throw Fault(text("strftime_now() gives a text that is not UTF-8"));
  return buffer;
}

}  // namespace

Value call_method(const Value& object, const std::string& name, const Arguments& arguments, Budget& budget) {
  budget.spend_bytes(object.weight());
  if (object.is_string()) {
    if (object.is_markup())
      throw Fault(text("a method of a string made by \"safe\" or \"escape\" is not supported"));
    const auto found = text_methods().find(name);
    if (found == text_methods().end())
      throw Fault(text("the method \"{}\" of a string is not supported", name));
    return found->second(object.string(), arguments);
  }
  if (object.is_dict()) return dict_method(object.dict(), name, arguments);
  if (object.is_sequence()) return list_method(object, name, arguments);
  if (object.is<std::shared_ptr<const LoopState>>()) {
    return loop_method(*object.as<std::shared_ptr<const LoopState>>(), name, arguments);
  }
  const Value attribute = get_attribute(object, name);
  if (attribute.is_undefined()) throw Fault(text("a {} has no method \"{}\"", type_name(object), name));
  throw Fault(text("\"{}\" is a {} and cannot be called", name, type_name(attribute)));
}

Value call_function(Function function, const Arguments& arguments) {
  switch (function) {
    case Function::kRaiseException: {
      const auto bound = bind(arguments, "raise_exception", {"message"});
      throw Fault(
          text("the template refuses these messages: {}", bound[0] == nullptr ? "" : to_text(*bound[0])));
    }
    case Function::kStrftimeNow:
      return format_now(arguments);
    case Function::kNamespace:
      return make_namespace(arguments);
    case Function::kRange:
      return make_range(arguments);
    case Function::kDict:
      return make_dict(dict_items(arguments, "dict"));
  }
  throw Fault(text("an unknown function"));
}

}  // namespace onggi::jinja

#include "tokenizer/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "base/text.h"
#include "tokenizer/jinja_text.h"

namespace onggi::jinja {
namespace {

using Filter = Value (*)(const Value& subject, const Arguments& arguments, Budget& budget);

const Value& required(const Value* value, std::string_view what) {
  if (value == nullptr) throw Fault(text("{} is missing", what));
  return *value;
}

bool flag(const Value* value) { return value != nullptr && truthy(*value); }

// What most filters on texts do with other values: they write them out first. Escaped strings would stay
// escaped strings in Jinja; nothing after |safe or |escape is supported but writing them out.
std::string as_text(const Value& value) {
  if (value.is_markup()) throw Fault(text("a filter after \"safe\" or \"escape\" is not supported"));
  return to_text(value);
}

// "a.b.0" of attribute arguments: names and indices, one after the other.
Value attribute_path(const Value& item, const Value& path) {
  if (path.is_integer()) return get_item(item, path);
  if (!path.is_string()) throw Fault(text("an attribute is a name, not a {}", type_name(path)));
  const std::string dot = ".";
  Value value = item;
  for (const std::string& part : split(path.string(), &dot, -1)) {
    const bool is_index =
        !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    value = get_item(value, is_index ? Value(static_cast<int64_t>(std::stol(part))) : Value(part));
  }
  return value;
}

Value attribute_or_self(const Value& item, const Value* path) {
  if (path == nullptr || path->is_none()) return item;
  if (path->is_string() && path->string().find(',') != std::string::npos) {
    throw Fault(text("several attributes at once (\"{}\") are not supported", path->string()));
  }
  return attribute_path(item, *path);
}

// The sort key of an item: texts without regard to case unless asked.
Value key_of(const Value& item, const Value* path, const Value* case_sensitive) {
  Value key = attribute_or_self(item, path);
  return key.is_string() && !flag(case_sensitive) ? Value(lower(key.string())) : key;
}

// --- texts ---

template <auto function>
Value text_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "upper, lower, title, capitalize", {});
  return function(as_text(subject));
}

Value trim_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "trim", {"chars"});
  const std::string input = as_text(subject);
  if (bound[0] == nullptr || bound[0]->is_none()) return std::string(strip(input, Side::kBoth));
  if (!bound[0]->is_string()) throw Fault(text("trim() needs a string, not a {}", type_name(*bound[0])));
  return std::string(strip(input, Side::kBoth, &bound[0]->string()));
}

Value replace_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "replace", {"old", "new", "count"});
  const Value &from = required(bound[0], "the text to replace"), &to = required(bound[1], "the replacement");
  const bool all = bound[2] == nullptr || bound[2]->is_none();
  return replace(as_text(subject), as_text(from), as_text(to), all ? -1 : bound[2]->integer());
}

Value indent_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "indent", {"width", "first", "blank"});
  if (!subject.is_string()) throw Fault(text("indent of a {}", type_name(subject)));
  std::string indentation(4, ' ');
  if (bound[0] != nullptr) {
    const int64_t width = bound[0]->is_string() ? 0 : std::clamp<int64_t>(bound[0]->integer(), 0, 1000);
    indentation = bound[0]->is_string() ? bound[0]->string() : std::string(width, ' ');
  }
  const std::vector<std::string> lines = split_lines(as_text(subject) + "\n", false);
  std::string result = flag(bound[1]) ? indentation : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) result += "\n";
    if (i > 0 && (flag(bound[2]) || !lines[i].empty())) result += indentation;
    result += lines[i];
    if (result.size() > kMaxBytes) throw Fault(text("a string grows beyond {} bytes", kMaxBytes));
  }
  return result;
}

Value escape_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "escape", {});
  if (subject.is_markup()) return subject;
  std::string result;
  for (const char c : to_text(subject)) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '\'':
        result += "&#39;";
        break;
      case '"':
        result += "&#34;";
        break;
      default:
        result += c;
    }
  }
  return Value::markup(std::move(result));
}

Value safe_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "safe", {});
  return subject.is_markup() ? subject : Value::markup(to_text(subject));
}

Value string_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "string", {});
  return subject.is_string() ? subject : Value(to_text(subject));
}

Value tojson_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "tojson", {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = flag(bound[0]);
  style.sort_keys = flag(bound[3]);
  if (bound[1] != nullptr && !bound[1]->is_none()) {
    style.has_indent = true;
    style.item_separator = std::string(",");
    style.indent =
        bound[1]->is_string()
            ? bound[1]->string()
            : std::string(static_cast<size_t>(std::clamp<int64_t>(bound[1]->integer(), 0, 1000)), ' ');
  }
  if (bound[2] != nullptr && !bound[2]->is_none()) {
    const std::vector<Value> both = iterate(*bound[2]);
    if (both.size() != 2 || !both[0].is_string() || !both[1].is_string()) {
      throw Fault(text("the separators of tojson are two strings"));
    }
    style.item_separator = both[0].string();
    style.key_separator = both[1].string();
  }
  return to_json(subject, style);
}

// --- numbers ---

// float(text) of Python; nothing where it is not a number.
const double* parse_real(std::string_view input, double& number) {
  std::string digits(strip(input, Side::kBoth));
  if (!digits.empty() && digits[0] == '+') digits.erase(0, 1);
  if (digits.find('_') != std::string::npos)
    throw Fault(text("a number with \"_\" in a text is not supported"));
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  return error == std::errc() && end == digits.data() + digits.size() ? &number : nullptr;
}

Value int_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "int", {"default", "base"});
  if (bound[1] != nullptr && !equal(*bound[1], int64_t{10}))
    throw Fault(text("int with another base than 10 is not supported"));
  const Value otherwise = bound[0] == nullptr ? Value(int64_t{0}) : *bound[0];
  double number = 0;
  if (subject.is_integer() || subject.is<bool>()) return subject.integer();
  if (subject.is<double>()) {
    number = subject.as<double>();
  } else if (subject.is_string()) {
    std::string digits(strip(subject.string(), Side::kBoth));
    if (!digits.empty() && digits[0] == '+') digits.erase(0, 1);
    int64_t integer = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), integer);
    if (error == std::errc() && end == digits.data() + digits.size()) return integer;
    if (parse_real(subject.string(), number) == nullptr) return otherwise;
  } else if (subject.is_undefined()) {
    subject.integer();  // throws: it is undefined
  } else {
    return otherwise;
  }
  if (std::isnan(number)) return otherwise;
  if (std::fabs(number) >= 9.2e18) throw Fault(text("a number grows beyond 64 bits"));
  return static_cast<int64_t>(number);
}

Value float_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "float", {"default"});
  double number = 0;
  if (subject.is_number()) return subject.real();
  if (subject.is_undefined()) subject.integer();
  if (subject.is_string() && parse_real(subject.string(), number) != nullptr) return number;
  return bound[0] == nullptr ? Value(0.0) : *bound[0];
}

Value abs_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "abs", {});
  if (subject.is<double>()) return std::fabs(subject.as<double>());
  return subject.integer() < 0 ? negate(subject) : Value(subject.integer());
}

Value round_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "round", {"precision", "method"});
  const int64_t precision = bound[0] == nullptr ? 0 : bound[0]->integer();
  const std::string method = bound[1] == nullptr ? "common" : as_text(*bound[1]);
  if (precision < 0 || precision > 15)
    throw Fault(text("round with the precision {} is not supported", precision));
  if (method != "common" && method != "ceil" && method != "floor")
    throw Fault(text("round with the method \"{}\"", method));
  if (method == "common") {
    if (!subject.is<double>()) return subject.integer();
    char buffer[400];  // the longest double has 309 digits before the point
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(precision), subject.as<double>());
    return std::strtod(buffer, nullptr);
  }
  const double scale = std::pow(10.0, static_cast<double>(precision)), scaled = subject.real() * scale;
  return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

// --- collections ---

Value length_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "length", {});
  return length(subject);
}

Value default_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "default", {"default_value", "boolean"});
  const bool absent = subject.is_undefined() || (flag(bound[1]) && !truthy(subject));
  if (!absent) return subject;
  return bound[0] == nullptr ? Value(std::string()) : *bound[0];
}

Value first_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "first", {});
  if (subject.is_sequence(SequenceKind::kGenerator)) {
    const Sequence& sequence = subject.sequence();
    return sequence.taken < sequence.items.size() ? sequence.items[sequence.taken++]
                                                  : Value(Undefined{"first"});
  }
  std::vector<Value> items = iterate(subject);
  return items.empty() ? Value(Undefined{"first"}) : items.front();
}

Value last_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "last", {});
  if (subject.is_sequence(SequenceKind::kGenerator)) throw Fault(text("last of a generator"));
  std::vector<Value> items = iterate(subject);
  return items.empty() ? Value(Undefined{"last"}) : items.back();
}

Value list_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "list", {});
  return make_sequence(iterate(subject));
}

Value reverse_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "reverse", {});
  if (subject.is_string()) {
    auto points = code_points(as_text(subject));
    std::reverse(points.begin(), points.end());
    return from_code_points(points);
  }
  std::vector<Value> items = iterate(subject);
  std::reverse(items.begin(), items.end());
  // reversed() of a list is an iterator; of what cannot be reversed, Jinja makes a list first.
  return make_sequence(std::move(items), subject.is_sequence(SequenceKind::kGenerator)
                                             ? SequenceKind::kList
                                             : SequenceKind::kGenerator);
}

Value join_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "join", {"d", "attribute"});
  const std::string separator = bound[0] == nullptr ? "" : as_text(*bound[0]);
  std::string result;
  bool first = true;
  for (const Value& item : iterate(subject)) {
    if (!first) result += separator;
    first = false;
    result += as_text(attribute_or_self(item, bound[1]));
    if (result.size() > kMaxBytes) throw Fault(text("a string grows beyond {} bytes", kMaxBytes));
  }
  return result;
}

Value items_filter(const Value& subject, const Arguments& arguments, Budget&) {
  bind(arguments, "items", {});
  std::vector<Value> items;
  if (subject.is_dict()) {
    for (const auto& [key, value] : subject.dict().items) {
      items.push_back(make_sequence({key, value}, SequenceKind::kTuple));
    }
  } else if (!subject.is_undefined()) {
    throw Fault(text("items of a {}", type_name(subject)));
  }
  return make_sequence(std::move(items), SequenceKind::kGenerator);
}

void sort_by_keys(std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  // Python's sort with reverse keeps equal items in their order.
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? less(b.first, a.first) : less(a.first, b.first);
  });
}

Value second_of(std::vector<std::pair<Value, Value>> keyed, SequenceKind kind) {
  std::vector<Value> items;
  items.reserve(keyed.size());
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return make_sequence(std::move(items), kind);
}

Value sort_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "sort", {"reverse", "case_sensitive", "attribute"});
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : iterate(subject)) keyed.emplace_back(key_of(item, bound[2], bound[1]), item);
  sort_by_keys(keyed, flag(bound[0]));
  return second_of(std::move(keyed), SequenceKind::kList);
}

Value dictsort_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "dictsort", {"case_sensitive", "by", "reverse"});
  if (!subject.is_dict()) throw Fault(text("dictsort of a {}", type_name(subject)));
  const std::string by = bound[1] == nullptr ? "key" : as_text(*bound[1]);
  if (by != "key" && by != "value") throw Fault(text("dictsort by \"{}\"", by));
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : subject.dict().items) {
    keyed.emplace_back(key_of(by == "key" ? key : value, nullptr, bound[0]),
                       make_sequence({key, value}, SequenceKind::kTuple));
  }
  sort_by_keys(keyed, flag(bound[2]));
  return second_of(std::move(keyed), SequenceKind::kList);
}

Value unique_filter(const Value& subject, const Arguments& arguments, Budget& budget) {
  const auto bound = bind(arguments, "unique", {"case_sensitive", "attribute"});
  std::vector<Value> seen, result;
  for (const Value& item : iterate(subject)) {
    const Value key = key_of(item, bound[1], bound[0]);
    budget.spend(1 + seen.size());
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& other) { return equal(key, other); }))
      continue;
    seen.push_back(key);
    result.push_back(item);
  }
  return make_sequence(std::move(result), SequenceKind::kGenerator);
}

enum class Extreme { kMin, kMax };
template <Extreme extreme>
Value extreme_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "min, max", {"case_sensitive", "attribute"});
  const std::vector<Value> items = iterate(subject);
  if (items.empty()) return Undefined{"min, max"};
  size_t best = 0;
  Value best_key = key_of(items[0], bound[1], bound[0]);
  for (size_t i = 1; i < items.size(); ++i) {
    Value key = key_of(items[i], bound[1], bound[0]);
    if (extreme == Extreme::kMin ? less(key, best_key) : less(best_key, key)) {
      best = i;
      best_key = std::move(key);
    }
  }
  return items[best];
}

Value sum_filter(const Value& subject, const Arguments& arguments, Budget&) {
  const auto bound = bind(arguments, "sum", {"attribute", "start"});
  Value total = bound[1] == nullptr ? Value(int64_t{0}) : *bound[1];
  for (const Value& item : iterate(subject))
    total = binary_operation("+", total, attribute_or_self(item, bound[0]));
  return total;
}

// The arguments behind the name of a filter or test.
Arguments rest_of(const Arguments& arguments, size_t skip) {
  Arguments rest;
  rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(skip),
                         arguments.positional.end());
  rest.named = arguments.named;
  return rest;
}

const std::string& name_argument(const Arguments& arguments, size_t index, std::string_view callee) {
  if (arguments.positional.size() <= index || !arguments.positional[index].is_string()) {
    throw Fault(text("{} needs the name of a filter, test or attribute", callee));
  }
  return arguments.positional[index].string();
}

Value map_filter(const Value& subject, const Arguments& arguments, Budget& budget) {
  std::vector<Value> result;
  if (arguments.positional.empty()) {
    const auto bound = bind(arguments, "map", {"attribute", "default"});
    const Value& path = required(bound[0], "the attribute of map");
    for (const Value& item : iterate(subject)) {
      Value value = attribute_or_self(item, &path);
      if (value.is_undefined() && bound[1] != nullptr) value = *bound[1];
      result.push_back(std::move(value));
    }
  } else {
    const std::string& name = name_argument(arguments, 0, "map");
    if (!is_filter(name)) throw Fault(text("the filter \"{}\" is not supported", name));
    const Arguments rest = rest_of(arguments, 1);
    for (const Value& item : iterate(subject)) result.push_back(apply_filter(name, item, rest, budget));
  }
  return make_sequence(std::move(result), SequenceKind::kGenerator);
}

enum class Keep { kTrue, kFalse };
enum class Look { kItem, kAttribute };

// select, reject, selectattr, rejectattr.
template <Keep keep, Look look>
Value select_filter(const Value& subject, const Arguments& arguments, Budget& budget) {
  constexpr size_t kSkip = look == Look::kAttribute ? 1 : 0;
  if (look == Look::kAttribute && arguments.positional.empty())
    throw Fault(text("selectattr needs an attribute"));
  const bool has_test = arguments.positional.size() > kSkip;
  if (!has_test && !arguments.named.empty()) throw Fault(text("select with named arguments but no test"));
  const std::string test = has_test ? name_argument(arguments, kSkip, "select") : "";
  if (has_test && !is_test(test)) throw Fault(text("the test \"{}\" is not supported", test));
  const Arguments rest = has_test ? rest_of(arguments, kSkip + 1) : Arguments{};
  std::vector<Value> result;
  for (const Value& item : iterate(subject)) {
    budget.spend(1);
    const Value value = look == Look::kAttribute ? attribute_or_self(item, &arguments.positional[0]) : item;
    const bool passes = has_test ? apply_test(test, value, rest) : truthy(value);
    if (passes == (keep == Keep::kTrue)) result.push_back(item);
  }
  return make_sequence(std::move(result), SequenceKind::kGenerator);
}

const std::map<std::string_view, Filter>& filters() {
  static const std::map<std::string_view, Filter> table = {
      {"abs", abs_filter},
      {"capitalize", text_filter<capitalize>},
      {"count", length_filter},
      {"d", default_filter},
      {"default", default_filter},
      {"dictsort", dictsort_filter},
      {"e", escape_filter},
      {"escape", escape_filter},
      {"first", first_filter},
      {"float", float_filter},
      {"indent", indent_filter},
      {"int", int_filter},
      {"items", items_filter},
      {"join", join_filter},
      {"last", last_filter},
      {"length", length_filter},
      {"list", list_filter},
      {"lower", text_filter<lower>},
      {"map", map_filter},
      {"max", extreme_filter<Extreme::kMax>},
      {"min", extreme_filter<Extreme::kMin>},
      {"reject", select_filter<Keep::kFalse, Look::kItem>},
      {"rejectattr", select_filter<Keep::kFalse, Look::kAttribute>},
      {"replace", replace_filter},
      {"reverse", reverse_filter},
      {"round", round_filter},
      {"safe", safe_filter},
      {"select", select_filter<Keep::kTrue, Look::kItem>},
      {"selectattr", select_filter<Keep::kTrue, Look::kAttribute>},
      {"sort", sort_filter},
      {"string", string_filter},
      {"sum", sum_filter},
      {"title", text_filter<title_by_words>},
      {"tojson", tojson_filter},
      {"trim", trim_filter},
      {"unique", unique_filter},
      {"upper", text_filter<upper>},
  };
  return table;
}

}  // namespace

void Budget::spend(uint64_t units) {
  if (units > units_) throw Fault(text("the template takes too many steps for these messages"));
  units_ -= units;
}

std::vector<const Value*> bind(const Arguments& arguments, std::string_view callee,
                               std::initializer_list<std::string_view> parameters) {
  std::vector<const Value*> bound(parameters.size(), nullptr);
  if (arguments.positional.size() > parameters.size()) {
    throw Fault(text("\"{}\" takes at most {} arguments, not {}", callee, parameters.size(),
                     arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) bound[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto found = std::find(parameters.begin(), parameters.end(), name);
    if (found == parameters.end())
      throw Fault(text("the argument \"{}\" of \"{}\" is not supported", name, callee));
    const Value*& slot = bound[static_cast<size_t>(found - parameters.begin())];
    if (slot != nullptr) throw Fault(text("the argument \"{}\" of \"{}\" is given twice", name, callee));
    slot = &value;
  }
  return bound;
}

bool is_filter(std::string_view name) { return filters().count(name) > 0; }

Value apply_filter(std::string_view name, const Value& subject, const Arguments& arguments, Budget& budget) {
  if (!subject.is_data())
    throw Fault(text("the filter \"{}\" of a {} is not supported", name, type_name(subject)));
  budget.spend_bytes(subject.weight());
  Value result = filters().at(name)(subject, arguments, budget);
  budget.spend_bytes(result.weight());
  return result;
}

}  // namespace onggi::jinja

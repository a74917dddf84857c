// Operators, attributes, items and slices.
#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "tokenizer/jinja_filters.h"
#include "tokenizer/jinja_text.h"

namespace onggi::jinja {
namespace {

constexpr size_t kMaxItems = size_t{1} << 20;

[[noreturn]] void overflow() { throw Fault(text("a number grows beyond 64 bits")); }

void require_defined(const Value& value) {
  if (value.is_undefined()) throw Fault(text("\"{}\" is undefined", value.as<Undefined>().name));
}

[[noreturn]] void unsupported_operands(std::string_view op, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  throw Fault(text("the operator \"{}\" for a {} and a {} is not supported", op, type_name(a), type_name(b)));
}

int64_t floor_divide(int64_t a, int64_t b) {
  if (b == 0) throw Fault(text("a division by zero"));
  if (b == -1 && a == INT64_MIN) overflow();
  const int64_t quotient = a / b;
  return a % b != 0 && (a % b < 0) != (b < 0) ? quotient - 1 : quotient;
}

Value integer_operation(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+") {
    if (__builtin_add_overflow(a, b, &result)) overflow();
  } else if (op == "-") {
    if (__builtin_sub_overflow(a, b, &result)) overflow();
  } else if (op == "*") {
    if (__builtin_mul_overflow(a, b, &result)) overflow();
  } else if (op == "/") {
    if (b == 0) throw Fault(text("a division by zero"));
    return static_cast<double>(a) / static_cast<double>(b);
  } else if (op == "//") {
    result = floor_divide(a, b);
  } else if (op == "%") {
    if (b == -1) return int64_t{0};
    result = a - floor_divide(a, b) * b;
  } else {  // **
    if (b < 0) {
      if (a == 0) throw Fault(text("a division by zero"));
      return std::pow(static_cast<double>(a), static_cast<double>(b));
    }
    result = 1;
    if (a == 0 || a == 1) return b == 0 ? int64_t{1} : a;
    if (a == -1) return b % 2 == 0 ? int64_t{1} : int64_t{-1};
    for (int64_t i = 0; i < b; ++i) {
      if (__builtin_mul_overflow(result, a, &result)) overflow();
    }
  }
  return result;
}

Value real_operation(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") {
    const double result = std::pow(a, b);
    if (std::isnan(result) && !std::isnan(a) && !std::isnan(b))
      throw Fault(text("a complex number is not supported"));
    if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) overflow();
    return result;
  }
  if (b == 0) throw Fault(text("a division by zero"));
  if (op == "/") return a / b;
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  if (op == "%") return remainder == 0 ? std::copysign(0.0, b) : remainder;
  return std::floor((a - remainder) / b + 0.5);
}

Value repeat(const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  if (value.is_string()) {
    const std::string& unit = value.string();
    if (!unit.empty() && static_cast<uint64_t>(count) > kMaxBytes / unit.size()) {
      throw Fault(text("a string grows beyond {} bytes", kMaxBytes));
    }
    std::string result;
    for (int64_t i = 0; i < count && !unit.empty(); ++i) result += unit;
    return result;
  }
  const auto& unit = value.sequence().items;
  if (!unit.empty() && static_cast<uint64_t>(count) > kMaxItems / unit.size()) {
    throw Fault(text("a list grows beyond {} items", kMaxItems));
  }
  std::vector<Value> items;
  for (int64_t i = 0; i < count && !unit.empty(); ++i) items.insert(items.end(), unit.begin(), unit.end());
  return make_sequence(std::move(items), value.sequence().kind);
}

bool is_list_or_tuple(const Value& value) {
  return value.is_sequence(SequenceKind::kList) || value.is_sequence(SequenceKind::kTuple);
}

std::string joined(const std::string& a, const std::string& b) {
  if (a.size() + b.size() > kMaxBytes) throw Fault(text("a string grows beyond {} bytes", kMaxBytes));
  return a + b;
}

// Python's own attributes of the types that templates see: without a call they would be methods.
bool is_python_attribute(const Value& object, std::string_view name) {
  static constexpr std::string_view kDict[] = {"clear", "copy",    "fromkeys",   "get",    "items", "keys",
                                               "pop",   "popitem", "setdefault", "update", "values"};
  static constexpr std::string_view kList[] = {"append", "clear", "copy",   "count",   "extend", "index",
                                               "insert", "pop",   "remove", "reverse", "sort"};
  static constexpr std::string_view kText[] = {
      "capitalize", "casefold",     "center",       "count",   "encode",     "endswith",    "expandtabs",
      "find",       "format",       "format_map",   "index",   "isalnum",    "isalpha",     "isascii",
      "isdecimal",  "isdigit",      "isidentifier", "islower", "isnumeric",  "isprintable", "isspace",
      "istitle",    "isupper",      "join",         "ljust",   "lower",      "lstrip",      "maketrans",
      "partition",  "removeprefix", "removesuffix", "replace", "rfind",      "rindex",      "rjust",
      "rpartition", "rsplit",       "rstrip",       "split",   "splitlines", "startswith",  "strip",
      "swapcase",   "title",        "translate",    "upper",   "zfill"};
  static constexpr std::string_view kNumber[] = {"real",       "imag",       "numerator",       "denominator",
                                                 "conjugate",  "bit_length", "bit_count",       "to_bytes",
                                                 "is_integer", "hex",        "as_integer_ratio"};
  const auto has = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  if (object.is_dict()) return has(kDict);
  if (object.is_string()) return has(kText);
  if (object.is_sequence()) return has(kList);
  return object.is_number() && has(kNumber);
}

Value loop_attribute(const LoopState& loop, const std::string& name) {
  const auto index = static_cast<int64_t>(loop.index), count = static_cast<int64_t>(loop.items.size());
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return count - index;
  if (name == "revindex0") return count - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == count;
  if (name == "length") return count;
  if (name == "depth") return int64_t{1};  // counts recursive loops, which are not supported
  if (name == "depth0") return int64_t{0};
  if (name == "previtem") return index > 0 ? loop.items[index - 1] : Value(Undefined{"loop.previtem"});
  if (name == "nextitem")
    return index + 1 < count ? loop.items[index + 1] : Value(Undefined{"loop.nextitem"});
  if (name == "cycle" || name == "changed")
    throw Fault(text("\"loop.{}\" without a call is not supported", name));
  return Undefined{"loop." + name};
}

// The index of a sequence of count items; -1 where there is none.
int64_t resolve_index(int64_t index, int64_t count) {
  if (index < 0) index += count;
  return index >= 0 && index < count ? index : -1;
}

// Python's slice.indices.
struct Range {
  int64_t start, stop, step;
};
Range resolve_slice(const Value& start, const Value& stop, const Value& step, int64_t count) {
  Range range{};
  range.step = step.is_none() ? 1 : step.integer();
  if (range.step == 0) throw Fault(text("a slice with step zero"));
  range.step = std::clamp<int64_t>(range.step, -(int64_t{1} << 40), int64_t{1} << 40);
  const bool down = range.step < 0;
  const int64_t lowest = down ? -1 : 0, highest = down ? count - 1 : count;
  const auto bound = [&](const Value& value, int64_t absent) {
    if (value.is_none()) return absent;
    int64_t index = value.integer();
    if (index < 0) index = std::max(index, -(int64_t{1} << 40)) + count;
    return std::clamp(index, lowest, highest);
  };
  range.start = bound(start, down ? highest : lowest);
  range.stop = bound(stop, down ? lowest : highest);
  return range;
}

template <typename T>
std::vector<T> take_slice(const std::vector<T>& items, const Range& range) {
  std::vector<T> result;
  for (int64_t i = range.start; range.step > 0 ? i < range.stop : i > range.stop; i += range.step) {
    result.push_back(items[i]);
  }
  return result;
}

}  // namespace

Value binary_operation(std::string_view op, const Value& a, const Value& b) {
  if (a.is_markup() || b.is_markup()) {
    throw Fault(
        text("a string made by \"safe\" or \"escape\" with the operator \"{}\" is not supported", op));
  }
  if (op == "~") return joined(to_text(a), to_text(b));
  if (a.is_number() && b.is_number()) {
    if (a.is<double>() || b.is<double>()) return real_operation(op, a.real(), b.real());
    return integer_operation(op, a.integer(), b.integer());
  }
  if (op == "+") {
    if (a.is_string() && b.is_string()) return joined(a.string(), b.string());
    if (is_list_or_tuple(a) && is_list_or_tuple(b) && a.sequence().kind == b.sequence().kind) {
      std::vector<Value> items = a.sequence().items;
      items.insert(items.end(), b.sequence().items.begin(), b.sequence().items.end());
      return make_sequence(std::move(items), a.sequence().kind);
    }
  }
  if (op == "*") {
    const bool left = (a.is_string() || is_list_or_tuple(a)) && (b.is_integer() || b.is<bool>());
    const bool right = (b.is_string() || is_list_or_tuple(b)) && (a.is_integer() || a.is<bool>());
    if (left) return repeat(a, b.integer());
    if (right) return repeat(b, a.integer());
  }
  unsupported_operands(op, a, b);
}

Value negate(const Value& value) {
  if (value.is<double>()) return -value.as<double>();
  const int64_t number = value.integer();
  if (number == INT64_MIN) overflow();
  return -number;
}

Value get_attribute(const Value& object, const std::string& name) {
  require_defined(object);
  if (object.is<std::shared_ptr<Namespace>>()) {
    for (const auto& [key, value] : object.as<std::shared_ptr<Namespace>>()->attributes) {
      if (key == name) return value;
    }
    return Undefined{name};
  }
  if (object.is<std::shared_ptr<const LoopState>>()) {
    return loop_attribute(*object.as<std::shared_ptr<const LoopState>>(), name);
  }
  if (!object.is_data())
    throw Fault(text("the attribute \"{}\" of a {} is not supported", name, type_name(object)));
  if (is_python_attribute(object, name)) {
    throw Fault(text("\"{}\" is a method of {} here; to get at a key of this name, write [\"{}\"]", name,
                     type_name(object), name));
  }
  if (object.is_dict()) {
    if (const Value* value = object.dict().find(std::string_view(name))) return *value;
  }
  return Undefined{name};
}

Value get_item(const Value& object, const Value& key) {
  require_defined(object);
  if (object.is_dict()) {
    if (const Value* value = object.dict().find(key)) return *value;
  } else if (key.is_integer() || key.is<bool>()) {
    if (object.is_string()) {
      const auto points = code_points(object.string());
      const int64_t index = resolve_index(key.integer(), static_cast<int64_t>(points.size()));
      if (index >= 0) return from_code_points({points[index]});
    } else if (is_list_or_tuple(object)) {
      const auto& items = object.sequence().items;
      const int64_t index = resolve_index(key.integer(), static_cast<int64_t>(items.size()));
      if (index >= 0) return items[index];
    } else if (object.is_sequence() || !object.is_data()) {
      throw Fault(text("an item of a {} is not supported", type_name(object)));
    }
  }
  if (key.is_string()) return get_attribute(object, key.string());
  return Undefined{to_text(key)};
}

Value slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (object.is_string()) {
    const auto points = code_points(object.string());
    return from_code_points(
        take_slice(points, resolve_slice(start, stop, step, static_cast<int64_t>(points.size()))));
  }
  if (!is_list_or_tuple(object)) {
    require_defined(object);
    throw Fault(text("a slice of a {} is not supported", type_name(object)));
  }
  const auto& items = object.sequence().items;
  const Range range = resolve_slice(start, stop, step, static_cast<int64_t>(items.size()));
  return make_sequence(take_slice(items, range), object.sequence().kind);
}

}  // namespace onggi::jinja

// What templates can call: filters, tests, methods, operators, global functions.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/jinja_value.h"

namespace onggi::jinja {

// Bounds what one rendering may do, for hostile templates: a unit is a step of the interpreter or 64 bytes
// made.
class Budget {
 public:
  explicit Budget(uint64_t units) : units_(units) {}
  // Throws Fault when it is used up.
  void spend(uint64_t units);
  void spend_bytes(uint64_t bytes) { spend(1 + bytes / 64); }

 private:
  uint64_t units_;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// The arguments by parameter, nullptr for those not given. Throws Fault for too many, unknown or double ones.
std::vector<const Value*> bind(const Arguments& arguments, std::string_view callee,
                               std::initializer_list<std::string_view> parameters);

bool is_filter(std::string_view name);
Value apply_filter(std::string_view name, const Value& subject, const Arguments& arguments, Budget& budget);

bool is_test(std::string_view name);
bool apply_test(std::string_view name, const Value& subject, const Arguments& arguments);

// object.name, object[key], object[start:stop:step], object.name(arguments).
Value get_attribute(const Value& object, const std::string& name);
Value get_item(const Value& object, const Value& key);
Value slice(const Value& object, const Value& start, const Value& stop, const Value& step);
Value call_method(const Value& object, const std::string& name, const Arguments& arguments, Budget& budget);

// + - * / // % ** ~
Value binary_operation(std::string_view op, const Value& a, const Value& b);
Value negate(const Value& value);

// raise_exception, strftime_now, namespace, range, dict.
Value call_function(Function function, const Arguments& arguments);

}  // namespace onggi::jinja

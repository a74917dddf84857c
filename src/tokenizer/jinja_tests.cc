// Tests: "value is name".
#include <algorithm>
#include <map>

#include "base/text.h"
#include "tokenizer/jinja_filters.h"

namespace onggi::jinja {
namespace {

using Test = bool (*)(const Value& subject, const Value* argument);

bool is_sequence_test(const Value& subject, const Value*) {
  return subject.is_string() || subject.is_dict() || subject.is_undefined() ||
         subject.is_sequence(SequenceKind::kList) || subject.is_sequence(SequenceKind::kTuple);
}

bool is_iterable_test(const Value& subject, const Value*) {
  return subject.is_string() || subject.is_dict() || subject.is_sequence() || subject.is_undefined();
}

bool same_as_test(const Value& subject, const Value* other) {
  if (subject.is<bool>() || other->is<bool>() || subject.is_none() || other->is_none()) {
    return type_name(subject) == type_name(*other) && equal(subject, *other);
  }
  throw Fault(text("\"sameas\" of a {} and a {} is not supported", type_name(subject), type_name(*other)));
}

bool divisible_by(const Value& subject, const Value* by) {
  const Value remainder = binary_operation("%", subject, *by);
  return remainder.real() == 0;
}

bool is_even(const Value& subject) { return binary_operation("%", subject, int64_t{2}).real() == 0; }

struct TestEntry {
  Test test;
  bool takes_argument;
};

const std::map<std::string_view, TestEntry>& tests() {
  static const auto equal_test = [](const Value& a, const Value* b) { return equal(a, *b); };
  static const auto unequal_test = [](const Value& a, const Value* b) { return !equal(a, *b); };
  static const auto less_test = [](const Value& a, const Value* b) { return less(a, *b); };
  static const auto greater_test = [](const Value& a, const Value* b) { return less(*b, a); };
  static const auto less_equal_test = [](const Value& a, const Value* b) {
    return less(a, *b) || equal(a, *b);
  };
  static const auto greater_equal_test = [](const Value& a, const Value* b) {
    return less(*b, a) || equal(a, *b);
  };
  static const std::map<std::string_view, TestEntry> table = {
      {"defined", {[](const Value& v, const Value*) { return !v.is_undefined(); }, false}},
      {"undefined", {[](const Value& v, const Value*) { return v.is_undefined(); }, false}},
      {"none", {[](const Value& v, const Value*) { return v.is_none(); }, false}},
      {"string", {[](const Value& v, const Value*) { return v.is_string(); }, false}},
      {"mapping", {[](const Value& v, const Value*) { return v.is_dict(); }, false}},
      {"sequence", {is_sequence_test, false}},
      {"iterable", {is_iterable_test, false}},
      {"number", {[](const Value& v, const Value*) { return v.is_number(); }, false}},
      {"integer", {[](const Value& v, const Value*) { return v.is_integer(); }, false}},
      {"float", {[](const Value& v, const Value*) { return v.is<double>(); }, false}},
      {"boolean", {[](const Value& v, const Value*) { return v.is<bool>(); }, false}},
      {"true", {[](const Value& v, const Value*) { return v.is<bool>() && v.as<bool>(); }, false}},
      {"false", {[](const Value& v, const Value*) { return v.is<bool>() && !v.as<bool>(); }, false}},
      {"callable", {[](const Value& v, const Value*) { return v.is<Macro>() || v.is<Function>(); }, false}},
      {"even", {[](const Value& v, const Value*) { return is_even(v); }, false}},
      {"odd", {[](const Value& v, const Value*) { return !is_even(v); }, false}},
      {"divisibleby", {divisible_by, true}},
      {"sameas", {same_as_test, true}},
      {"in", {[](const Value& v, const Value* all) { return contains(*all, v); }, true}},
      {"eq", {equal_test, true}},
      {"equalto", {equal_test, true}},
      {"==", {equal_test, true}},
      {"ne", {unequal_test, true}},
      {"!=", {unequal_test, true}},
      {"lt", {less_test, true}},
      {"lessthan", {less_test, true}},
      {"<", {less_test, true}},
      {"gt", {greater_test, true}},
      {"greaterthan", {greater_test, true}},
      {">", {greater_test, true}},
      {"le", {less_equal_test, true}},
      {"<=", {less_equal_test, true}},
      {"ge", {greater_equal_test, true}},
      {">=", {greater_equal_test, true}},
  };
  return table;
}

}  // namespace

bool is_test(std::string_view name) { return tests().count(name) > 0; }

bool apply_test(std::string_view name, const Value& subject, const Arguments& arguments) {
  const TestEntry& entry = tests().at(name);
  const size_t count = arguments.positional.size() + arguments.named.size();
  if (!arguments.named.empty() || count != (entry.takes_argument ? 1 : 0)) {
    throw Fault(
        text("the test \"{}\" takes {} arguments, not {}", name, entry.takes_argument ? 1 : 0, count));
  }
  return entry.test(subject, entry.takes_argument ? &arguments.positional[0] : nullptr);
}

}  // namespace onggi::jinja

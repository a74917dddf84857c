// The values of a template: Python's, as far as templates can see them. Lists, tuples and dicts never change
// after they are made (Hugging Face's environment forbids it), so values share them freely.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace onggi::jinja {

// The largest string that a template may build, and about the largest list or dict in bytes: well above any
// prompt that a model can read.
inline constexpr size_t kMaxBytes = size_t{16} << 20;

class Value;
struct MacroStatement;
struct Scope;

// What went wrong in an operation; the interpreter adds the line.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Undefined {
  std::string name;  // what was looked up, for messages
};
struct None {};

struct String {
  std::string text;
  bool markup = false;  // made by |safe or |escape: may only be written out
};

enum class SequenceKind { kList, kTuple, kGenerator, kView };
struct Sequence {
  std::vector<Value> items;
  SequenceKind kind = SequenceKind::kList;
  int depth = 1;        // of nesting, so that hostile templates cannot build what recursion cannot follow
  uint64_t weight = 0;  // about the bytes of all below, counted at each place where it is shared
  mutable size_t taken = 0;  // of a generator: items already given out
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;       // in the order of insertion
  std::unordered_map<std::string, size_t> by_text;  // string keys
  int depth = 1;
  uint64_t weight = 0;

  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(const Value& key, Value value);
};

// namespace(): the one thing that a template can change.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};

struct LoopState;

struct Macro {
  const MacroStatement* definition;
  Scope* scope;  // where it was defined; outlives it
};

enum class Function { kRaiseException, kStrftimeNow, kNamespace, kRange, kDict };

using SequencePtr = std::shared_ptr<const Sequence>;
using DictPtr = std::shared_ptr<const Dict>;

class Value {
 public:
  Value() : data_(Undefined{}) {}
  Value(Undefined undefined)
      : data_(std::move(undefined)) {}  // NOLINT: conversions are the point of this class
  Value(None none) : data_(none) {}
  Value(bool flag) : data_(flag) {}
  Value(int64_t number) : data_(number) {}
  Value(double number) : data_(number) {}
  Value(std::string text) : data_(std::make_shared<const String>(String{std::move(text)})) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(SequencePtr sequence) : data_(std::move(sequence)) {}
  Value(DictPtr dict) : data_(std::move(dict)) {}
  Value(std::shared_ptr<Namespace> space) : data_(std::move(space)) {}
  Value(std::shared_ptr<const LoopState> loop) : data_(std::move(loop)) {}
  Value(Macro macro) : data_(macro) {}
  Value(Function function) : data_(function) {}

  static Value markup(std::string text);

  template <typename T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  template <typename T>
  const T& as() const {
    return std::get<T>(data_);
  }

  bool is_undefined() const { return is<Undefined>(); }
  bool is_none() const { return is<None>(); }
  bool is_string() const { return is<std::shared_ptr<const String>>(); }
  bool is_sequence() const { return is<SequencePtr>(); }
  bool is_sequence(SequenceKind kind) const { return is_sequence() && as<SequencePtr>()->kind == kind; }
  bool is_dict() const { return is<DictPtr>(); }
  bool is_integer() const { return is<int64_t>(); }
  bool is_number() const {
    return is<int64_t>() || is<double>() || is<bool>();
  }  // bool is a number in Python
  // What lists, dicts and namespaces may hold: data, no functions, loops or namespaces.
  bool is_data() const;

  const std::string& string() const { return as<std::shared_ptr<const String>>()->text; }
  bool is_markup() const { return is_string() && as<std::shared_ptr<const String>>()->markup; }
  const Sequence& sequence() const { return *as<SequencePtr>(); }
  const Dict& dict() const { return *as<DictPtr>(); }
  // Of a bool or integer; throws Fault for others.
  int64_t integer() const;
  double real() const;  // of a number

  int depth() const;        // of nested lists and dicts
  uint64_t weight() const;  // about the bytes to walk over it

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const String>, SequencePtr, DictPtr,
               std::shared_ptr<Namespace>, std::shared_ptr<const LoopState>, Macro, Function>
      data_;
};

// The state of a for loop: the variable "loop".
struct LoopState {
  std::vector<Value> items;
  size_t index = 0;
  mutable std::vector<Value> last_changed;  // the arguments of the last loop.changed(...)
  mutable bool has_changed = false;
};

// Makes a list (tuple, generator, view). Throws Fault where it is nested too deep, too large, or holds what
// it may not.
Value make_sequence(std::vector<Value> items, SequenceKind kind = SequenceKind::kList);
Value make_dict(std::vector<std::pair<Value, Value>> items);

// Python's type names, for messages.
std::string type_name(const Value& value);
bool truthy(const Value& value);
bool equal(const Value& a, const Value& b);
// a < b; throws Fault where Python cannot order the two.
bool less(const Value& a, const Value& b);
// needle in haystack.
bool contains(const Value& haystack, const Value& needle);
// len(); throws Fault where there is none.
int64_t length(const Value& value);
// The items that iteration gives: of strings the characters, of dicts the keys. Takes what a generator has
// left.
std::vector<Value> iterate(const Value& value);
// str() and repr().
std::string to_text(const Value& value);
std::string represent(const Value& value);

// Throws Fault for nesting beyond the bound and integers beyond 64 bits.
Value from_json(const nlohmann::ordered_json& json);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool has_indent = false;
  std::string indent;  // of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
// json.dumps.
std::string to_json(const Value& value, const JsonStyle& style);

}  // namespace onggi::jinja

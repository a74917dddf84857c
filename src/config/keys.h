// The one table of configuration keys. Reading, checking, printing and documenting all walk it, so a key that
// is not here does not exist, and one that is here is known everywhere.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/config.h"

namespace onggi {

// One of a fixed list of names, stored in an enumeration.
struct ChoiceRef {
  std::span<const std::string_view> names;
  std::function<size_t()> get;
  std::function<void(size_t)> set;
};

// A list of strings; where `choices` is not empty, each element must be one of them, at least one, none
// twice.
struct StringListRef {
  std::vector<std::string>* value = nullptr;
  std::span<const std::string_view> choices;
};

// Where a key's value lies. An optional that is empty is written "auto".
using ValueRef =
    std::variant<bool*, int64_t*, uint64_t*, double*, std::string*, std::optional<int64_t>*, ByteSize*,
                 std::optional<ByteSize>*, ChoiceRef, StringListRef, std::vector<int64_t>*>;

// Bounds of a number; both ends belong to it.
struct Bounds {
  double minimum = 0;
  double maximum = 0;
};

struct Key {
  std::string name;  // dotted: "training.max_steps"; keys without a section come first
  ValueRef value;
  Bounds bounds;        // of numbers and of list elements that are numbers
  std::string comment;  // one line for a reader of onggi.toml
};

// The table over the values of `config`, in the order in which they are printed. The references live as long
// as it.
std::vector<Key> keys_of(Config& config);

// The section of a dotted name ("training"), empty where there is none, and the rest ("max_steps").
std::string_view section_of(std::string_view name);
std::string_view key_in_section(std::string_view name);

// The key whose name is nearest to a misspelt one by edit distance, forgetting a missing or wrong section;
// empty where none is near.
std::string nearest_key(std::string_view misspelt, const std::vector<Key>& keys);

// The number of single-character insertions, deletions, replacements and swaps of neighbours between two
// words.
size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace onggi

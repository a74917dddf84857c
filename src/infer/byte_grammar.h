// Context-free grammars over bytes, and the automaton that follows a text through one of them. States are
// made when they are first met and kept, so that a step is a table look-up nearly always.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace onggi {

using ByteSet = std::bitset<256>;

class ByteGrammar {
 public:
  using Rule = int32_t;
  struct Element {
    Rule rule = -1;  // a reference to a rule, or
    ByteSet bytes;   // one byte of this set
  };
  using Sequence = std::vector<Element>;

  // A rule without alternatives yet.
  Rule add_rule();
  // Throws InputError where so many more elements would make the grammar too large.
  void check_room(size_t more_elements) const;
  // Throws like check_room. Rules must not begin with themselves other than through whole alternatives ("a =
  // a" is harmless, "a = a b" is not): each recursion has to read a byte first.
  void add_alternative(Rule rule, Sequence sequence);
  static Element ref(Rule rule) { return {rule, {}}; }
  static Element byte(unsigned char value);
  static Element range(unsigned char first, unsigned char last);
  static Element any_of(std::string_view bytes);
  // Appends one element per byte.
  static void append(Sequence& sequence, std::string_view literal);

 private:
  friend class ByteAutomaton;
  struct Flat {
    Element element;
    bool end = false;  // no element: the end of its alternative
  };
  std::vector<Flat> elements_;                // all alternatives one after the other, each with its end
  std::vector<std::vector<int32_t>> starts_;  // by rule: where its alternatives begin
};

// Belongs to one thread. Following a text, and the constructor, throw InputError where too many places of the
// grammar fit it at once, or too many have been met.
class ByteAutomaton {
 public:
  using State = int32_t;
  static constexpr State kDead = -1;

  ByteAutomaton(ByteGrammar grammar, ByteGrammar::Rule root);

  State start() const { return start_; }
  // kDead where no text of the grammar goes on so.
  State next(State state, unsigned char byte);
  State next(State state, std::string_view bytes);
  // The text so far is whole.
  bool accepting(State state) const { return states_[static_cast<size_t>(state)].accepting; }
  // It is whole and nothing may follow.
  bool complete(State state) const {
    return accepting(state) && states_[static_cast<size_t>(state)].stacks.empty();
  }
  // Forgets all states but this one when they have become many; returns its new number.
  State compact(State state);

 private:
  // What is still to be read: this position, then the parent's. -1: nothing.
  struct Node {
    int32_t parent;
    int32_t position;
    int32_t depth;
  };
  struct StateData {
    std::vector<int32_t> stacks;  // sorted nodes whose positions are byte sets
    bool accepting = false;
    std::vector<State> table;  // [256], made when first used
  };
  struct Closure {
    std::vector<int32_t> stacks;
    std::unordered_set<uint64_t> seen;              // keys of positions
    std::vector<std::pair<int32_t, int32_t>> open;  // parents and positions still to be followed
    bool accepting = false;
  };
  static constexpr State kUnknown = -2;

  int32_t intern(int32_t parent, int32_t position);
  void open_rule(int32_t parent, ByteGrammar::Rule rule, Closure& closure) const;
  void expand(Closure& closure);
  void follow(int32_t parent, int32_t position, Closure& closure);
  State add_state(Closure closure);

  ByteGrammar grammar_;
  std::vector<Node> nodes_;
  std::unordered_map<uint64_t, int32_t> node_index_;
  std::vector<StateData> states_;
  std::map<std::pair<std::vector<int32_t>, bool>, State> state_index_;
  State start_;
};

}  // namespace onggi

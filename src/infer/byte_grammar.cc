#include "infer/byte_grammar.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"

namespace onggi {
namespace {

// Deeper nesting is not allowed to begin; JSON takes two nodes a level.
constexpr int32_t kMaxDepth = 256;
constexpr size_t kManyStates = 20000;
constexpr size_t kMaxNodes = 1 << 21;
// Of one grammar; what a hostile schema may cost in memory.
constexpr size_t kMaxElements = 1'000'000;
// Visited by one byte of a text: what one may cost in time.
constexpr size_t kMaxVisits = 1 << 15;

uint64_t key_of(int32_t parent, int32_t position) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(parent)) << 32) | static_cast<uint32_t>(position);
}

[[noreturn]] void throw_too_complex() {
  throw InputError(text("the answer's format is too complex to follow; simplify the JSON schema"));
}

}  // namespace

ByteGrammar::Rule ByteGrammar::add_rule() {
  starts_.emplace_back();
  return static_cast<Rule>(starts_.size()) - 1;
}

void ByteGrammar::check_room(size_t more_elements) const {
  if (more_elements > kMaxElements || elements_.size() > kMaxElements - more_elements)
    throw InputError(text("the JSON schema is too large; simplify it"));
}

void ByteGrammar::add_alternative(Rule rule, Sequence sequence) {
  check_room(sequence.size());
  starts_[static_cast<size_t>(rule)].push_back(static_cast<int32_t>(elements_.size()));
  for (Element& element : sequence) elements_.push_back({std::move(element), false});
  elements_.push_back({{}, true});
}

ByteGrammar::Element ByteGrammar::byte(unsigned char value) { return range(value, value); }

ByteGrammar::Element ByteGrammar::range(unsigned char first, unsigned char last) {
  Element element;
  for (int value = first; value <= last; ++value) element.bytes.set(static_cast<size_t>(value));
  return element;
}

ByteGrammar::Element ByteGrammar::any_of(std::string_view bytes) {
  Element element;
  for (char c : bytes) element.bytes.set(static_cast<unsigned char>(c));
  return element;
}

void ByteGrammar::append(Sequence& sequence, std::string_view literal) {
  for (char c : literal) sequence.push_back(byte(static_cast<unsigned char>(c)));
}

ByteAutomaton::ByteAutomaton(ByteGrammar grammar, ByteGrammar::Rule root) : grammar_(std::move(grammar)) {
  Closure closure;
  open_rule(-1, root, closure);
  expand(closure);
  start_ = add_state(std::move(closure));
}

int32_t ByteAutomaton::intern(int32_t parent, int32_t position) {
  const auto [place, is_new] =
      node_index_.try_emplace(key_of(parent, position), static_cast<int32_t>(nodes_.size()));
  if (is_new) {
    if (nodes_.size() >= kMaxNodes) throw_too_complex();
    nodes_.push_back({parent, position, parent < 0 ? 1 : nodes_[static_cast<size_t>(parent)].depth + 1});
  }
  return place->second;
}

void ByteAutomaton::open_rule(int32_t parent, ByteGrammar::Rule rule, Closure& closure) const {
  for (int32_t start : grammar_.starts_[static_cast<size_t>(rule)]) closure.open.push_back({parent, start});
}

// Follows references and ends until bytes are to be read. Without recursion: a schema with many optional
// properties refers from each to the next.
void ByteAutomaton::expand(Closure& closure) {
  while (!closure.open.empty()) {
    const auto [parent, position] = closure.open.back();
    closure.open.pop_back();
    if (!closure.seen.insert(key_of(parent, position)).second) continue;
    if (closure.seen.size() > kMaxVisits) throw_too_complex();
    follow(parent, position, closure);
  }
}

void ByteAutomaton::follow(int32_t parent, int32_t position, Closure& closure) {
  const ByteGrammar::Flat& flat = grammar_.elements_[static_cast<size_t>(position)];
  if (flat.end) {
    if (parent < 0) {
      closure.accepting = true;
    } else {
      const Node node = nodes_[static_cast<size_t>(parent)];
      closure.open.push_back({node.parent, node.position});
    }
    return;
  }
  if (flat.element.rule < 0) {
    closure.stacks.push_back(intern(parent, position));
    return;
  }
  // A reference at the end needs no way back: loops do not grow the stack.
  const bool last = grammar_.elements_[static_cast<size_t>(position) + 1].end;
  const int32_t back = last ? parent : intern(parent, position + 1);
  if (back >= 0 && nodes_[static_cast<size_t>(back)].depth > kMaxDepth) return;
  open_rule(back, flat.element.rule, closure);
}

ByteAutomaton::State ByteAutomaton::add_state(Closure closure) {
  if (closure.stacks.empty() && !closure.accepting) return kDead;
  std::sort(closure.stacks.begin(), closure.stacks.end());
  closure.stacks.erase(std::unique(closure.stacks.begin(), closure.stacks.end()), closure.stacks.end());
  const auto [place, is_new] =
      state_index_.try_emplace({closure.stacks, closure.accepting}, static_cast<State>(states_.size()));
  if (is_new) states_.push_back({std::move(closure.stacks), closure.accepting, {}});
  return place->second;
}

ByteAutomaton::State ByteAutomaton::next(State state, unsigned char byte) {
  if (state == kDead) return kDead;
  {
    StateData& data = states_[static_cast<size_t>(state)];
    if (data.table.empty()) data.table.assign(256, kUnknown);
    if (data.table[byte] != kUnknown) return data.table[byte];
  }
  Closure closure;
  const std::vector<int32_t> stacks = states_[static_cast<size_t>(state)].stacks;
  for (int32_t stack : stacks) {
    const Node node = nodes_[static_cast<size_t>(stack)];
    const auto& bytes = grammar_.elements_[static_cast<size_t>(node.position)].element.bytes;
    if (bytes.test(byte)) closure.open.push_back({node.parent, node.position + 1});
  }
  expand(closure);
  const State next_state = add_state(std::move(closure));
  states_[static_cast<size_t>(state)].table[byte] = next_state;
  return next_state;
}

ByteAutomaton::State ByteAutomaton::next(State state, std::string_view bytes) {
  for (char c : bytes) {
    state = next(state, static_cast<unsigned char>(c));
    if (state == kDead) break;
  }
  return state;
}

ByteAutomaton::State ByteAutomaton::compact(State state) {
  if (states_.size() < kManyStates || state == kDead) return state;
  StateData kept = std::move(states_[static_cast<size_t>(state)]);
  Closure closure;
  closure.stacks = std::move(kept.stacks);
  closure.accepting = kept.accepting;
  states_.clear();
  state_index_.clear();
  return start_ = add_state(std::move(closure));
}

}  // namespace onggi

#include "infer/json_constraint.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "infer/byte_grammar.h"
#include "infer/json_grammar.h"

namespace onggi {
namespace {

class GrammarConstraint : public TokenConstraint {
 public:
  GrammarConstraint(Tokenizer tokenizer, ByteAutomaton automaton, const JsonConstraintOptions& options)
      : tokenizer_(std::move(tokenizer)),
        automaton_(std::move(automaton)),
        begins_after_(options.begins_after) {
    where_ = {begins_after_.empty(), automaton_.start(), {}};
  }

  bool allows(int32_t id) const override {
    if (finished_) return false;
    if (ends_answer(id)) return where_.begun && automaton_.accepting(where_.state);
    const std::string_view bytes = tokenizer_.token_bytes(id);
    return !bytes.empty() && after(bytes).state != ByteAutomaton::kDead;
  }

  void accept(int32_t id) override {
    if (ends_answer(id)) {
      finished_ = true;
      return;
    }
    where_ = after(tokenizer_.token_bytes(id));
    where_.state = automaton_.compact(where_.state);
    finished_ = where_.begun && automaton_.complete(where_.state);
  }

  bool finished() const override { return finished_; }

 private:
  struct Where {
    bool begun = false;  // what has to be JSON has begun
    ByteAutomaton::State state = ByteAutomaton::kDead;
    std::string tail;  // the last bytes before that, in which begins_after may have started
  };

  // A control token ends the answer. The text that ends the reasoning is a control token in some
  // vocabularies.
  bool ends_answer(int32_t id) const {
    return tokenizer_.is_special(id) && (where_.begun || tokenizer_.token_bytes(id) != begins_after_);
  }

  Where after(std::string_view bytes) const {
    if (where_.begun) return {true, automaton_.next(where_.state, bytes), {}};
    std::string seen = where_.tail + std::string(bytes);
    const size_t at = seen.find(begins_after_);
    if (at == std::string::npos) {
      const size_t kept = std::min(seen.size(), begins_after_.size() - 1);
      return {false, where_.state, seen.substr(seen.size() - kept)};
    }
    const std::string_view rest = std::string_view(seen).substr(at + begins_after_.size());
    return {true, automaton_.next(where_.state, rest), {}};
  }

  Tokenizer tokenizer_;
  mutable ByteAutomaton automaton_;  // learns states while it is asked
  std::string begins_after_;
  Where where_;
  bool finished_ = false;
};

// Up to two line ends, which follow the reasoning, then the value.
std::unique_ptr<TokenConstraint> constraint_of(Tokenizer tokenizer, ByteGrammar grammar,
                                               const JsonRules& rules, ByteGrammar::Rule value,
                                               const JsonConstraintOptions& options) {
  const ByteGrammar::Rule root = grammar.add_rule();
  grammar.add_alternative(
      root, {ByteGrammar::ref(rules.space), ByteGrammar::ref(rules.space), ByteGrammar::ref(value)});
  return std::make_unique<GrammarConstraint>(std::move(tokenizer), ByteAutomaton(std::move(grammar), root),
                                             options);
}

}  // namespace

std::unique_ptr<TokenConstraint> make_json_constraint(Tokenizer tokenizer,
                                                      const JsonConstraintOptions& options) {
  ByteGrammar grammar;
  const JsonRules rules(grammar);
  return constraint_of(std::move(tokenizer), grammar, rules, rules.object, options);
}

std::unique_ptr<TokenConstraint> make_schema_constraint(Tokenizer tokenizer,
                                                        const nlohmann::ordered_json& schema,
                                                        const JsonConstraintOptions& options) {
  ByteGrammar grammar;
  JsonRules rules(grammar);
  const ByteGrammar::Rule value = add_schema(grammar, rules, schema);
  return constraint_of(std::move(tokenizer), grammar, rules, value, options);
}

}  // namespace onggi

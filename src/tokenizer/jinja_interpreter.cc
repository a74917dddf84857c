#include "tokenizer/jinja_interpreter.h"

#include <algorithm>

#include "base/text.h"
#include "tokenizer/jinja_filters.h"
#include "tokenizer/jinja_lexer.h"

namespace onggi::jinja {

// The variables of a template, a macro call, one turn of a loop, or a "with"; what is not here is looked up
// further out.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string, Value>> variables;

  const Value* find_here(const std::string& name) const {
    for (const auto& [key, value] : variables) {
      if (key == name) return &value;
    }
    return nullptr;
  }
  const Value* find(const std::string& name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
      if (const Value* value = scope->find_here(name)) return value;
    }
    return nullptr;
  }
  void set(const std::string& name, Value value) {
    for (auto& [key, have] : variables) {
      if (key == name) {
        have = std::move(value);
        return;
      }
    }
    variables.emplace_back(name, std::move(value));
  }
};

namespace {

using Kind = Expression::Kind;

constexpr uint64_t kBudget = 2'000'000;  // a conversation of a thousand turns takes about a hundredth of this
constexpr int kMaxDepth = 1000;          // of statements, expressions and macro calls together

enum class Flow { kNext, kBreak, kContinue };

class Interpreter {
 public:
  std::string run(const Block& program, std::vector<std::pair<std::string, Value>> variables) {
    Scope builtins;
    builtins.variables = {{"raise_exception", Function::kRaiseException},
                          {"strftime_now", Function::kStrftimeNow},
                          {"namespace", Function::kNamespace},
                          {"range", Function::kRange},
                          {"dict", Function::kDict}};
    Scope global{&builtins, std::move(variables)};
    std::string out;
    try {
      execute(program, global, out);
    } catch (const Fault& fault) {
      fail(line_, fault.what());
    }
    return out;
  }

 private:
  // One level deeper for as long as it lives.
  struct Level {
    explicit Level(Interpreter& interpreter) : interpreter(interpreter) {
      if (++interpreter.depth_ > kMaxDepth)
        throw Fault(text("macros or expressions are nested deeper than {}", kMaxDepth));
      interpreter.budget_.spend(1);
    }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;
    ~Level() { --interpreter.depth_; }
    Interpreter& interpreter;
  };

  // --- statements ---

  Flow execute(const Block& block, Scope& scope, std::string& out) {
    for (const auto& statement : block) {
      const Flow flow = execute(*statement, scope, out);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Flow execute(const Statement& statement, Scope& scope, std::string& out) {
    const Level level(*this);
    line_ = statement.line;
    switch (statement.kind) {
      case Statement::Kind::kText:
        write(statement.text, out);
        return Flow::kNext;
      case Statement::Kind::kOutput:
        write(to_text(evaluate(*statement.expressions[0], scope)), out);
        return Flow::kNext;
      case Statement::Kind::kIf:
        return execute_if(statement, scope, out);
      case Statement::Kind::kFor:
        return execute_for(statement, scope, out);
      case Statement::Kind::kSet:
        assign(statement.targets[0], evaluate(*statement.expressions[0], scope), scope);
        return Flow::kNext;
      case Statement::Kind::kSetBlock:
        execute_set_block(statement, scope);
        return Flow::kNext;
      case Statement::Kind::kMacro:
        scope.set(statement.macro.name, Macro{&statement.macro, &scope});
        return Flow::kNext;
      case Statement::Kind::kWith: {
        Scope inner{&scope, {}};
        for (size_t i = 0; i < statement.targets.size(); ++i) {
          assign(statement.targets[i], evaluate(*statement.expressions[i], scope), inner);
        }
        return execute(statement.blocks[0], inner, out);
      }
      case Statement::Kind::kScope: {
        Scope inner{&scope, {}};
        return execute(statement.blocks[0], inner, out);
      }
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      case Statement::Kind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNext;
  }

  void write(const std::string& part, std::string& out) {
    budget_.spend_bytes(part.size());
    if (out.size() + part.size() > kMaxBytes) {
      throw Fault(text("the template writes more than {} bytes", kMaxBytes));
    }
    out += part;
  }

  Flow execute_if(const Statement& statement, Scope& scope, std::string& out) {
    for (size_t i = 0; i < statement.expressions.size(); ++i) {
      if (truthy(evaluate(*statement.expressions[i], scope))) return execute(statement.blocks[i], scope, out);
    }
    const bool has_else = statement.blocks.size() > statement.expressions.size();
    return has_else ? execute(statement.blocks.back(), scope, out) : Flow::kNext;
  }

  Flow execute_for(const Statement& statement, Scope& scope, std::string& out) {
    const Target& target = statement.targets[0];
    auto loop = std::make_shared<LoopState>();
    loop->items = iterate(evaluate(*statement.expressions[0], scope));
    budget_.spend(loop->items.size());
    if (statement.expressions[1] != nullptr) {
      std::vector<Value> kept;
      for (Value& item : loop->items) {
        Scope inner{&scope, {}};
        assign(target, item, inner);
        if (truthy(evaluate(*statement.expressions[1], inner))) kept.push_back(std::move(item));
      }
      loop->items = std::move(kept);
    }
    if (loop->items.empty()) {
      if (statement.blocks.size() < 2) return Flow::kNext;
      Scope inner{&scope, {}};
      return execute(statement.blocks[1], inner, out);
    }
    for (; loop->index < loop->items.size(); ++loop->index) {
      Scope inner{&scope, {}};
      inner.set("loop", std::shared_ptr<const LoopState>(loop));
      assign(target, loop->items[loop->index], inner);
      if (execute(statement.blocks[0], inner, out) == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  void execute_set_block(const Statement& statement, Scope& scope) {
    std::string captured;
    Scope inner{&scope, {}};
    execute(statement.blocks[0], inner, captured);
    Value value(std::move(captured));
    if (statement.expressions[0] != nullptr)
      value = evaluate_filter(*statement.expressions[0], scope, &value);
    assign(statement.targets[0], std::move(value), scope);
  }

  void assign(const Target& target, Value value, Scope& scope) {
    if (!target.parts.empty()) {
      const std::vector<Value> items = iterate(value);
      if (items.size() != target.parts.size()) {
        throw Fault(text("{} names are set from {} values", target.parts.size(), items.size()));
      }
      for (size_t i = 0; i < items.size(); ++i) assign(target.parts[i], items[i], scope);
      return;
    }
    if (target.attribute.empty()) {
      scope.set(target.name, std::move(value));
      return;
    }
    const Value* object = scope.find(target.name);
    if (object == nullptr || !object->is<std::shared_ptr<Namespace>>()) {
      throw Fault(text("\"{}.{}\" cannot be set: \"{}\" is not a namespace", target.name, target.attribute,
                       target.name));
    }
    if (!value.is_data()) throw Fault(text("a {} inside a namespace is not supported", type_name(value)));
    auto& attributes = object->as<std::shared_ptr<Namespace>>()->attributes;
    const auto found = std::find_if(attributes.begin(), attributes.end(),
                                    [&](const auto& entry) { return entry.first == target.attribute; });
    if (found != attributes.end()) {
      found->second = std::move(value);
    } else {
      attributes.emplace_back(target.attribute, std::move(value));
    }
  }

  // --- expressions ---

  Value evaluate(const Expression& expression, Scope& scope) {
    const Level level(*this);
    Value value = evaluate_kind(expression, scope);
    line_ = expression.line;
    return value;
  }

  // The value of an operand; the line is that of the whole expression again.
  Value operand(const Expression& expression, size_t index, Scope& scope) {
    Value value = evaluate(*expression.operands[index], scope);
    line_ = expression.line;
    return value;
  }
  Value optional_operand(const Expression& expression, size_t index, Scope& scope) {
    return expression.operands[index] == nullptr ? Value(None{}) : operand(expression, index, scope);
  }

  Value charged(Value value) {
    budget_.spend_bytes(value.weight());
    return value;
  }

  Value evaluate_kind(const Expression& expression, Scope& scope) {
    switch (expression.kind) {
      case Kind::kLiteral:
        return expression.value;
      case Kind::kName:
        return look_up(expression, scope);
      case Kind::kList:
      case Kind::kTuple: {
        std::vector<Value> items;
        for (size_t i = 0; i < expression.operands.size(); ++i)
          items.push_back(operand(expression, i, scope));
        return charged(make_sequence(
            std::move(items), expression.kind == Kind::kList ? SequenceKind::kList : SequenceKind::kTuple));
      }
      case Kind::kDict: {
        std::vector<std::pair<Value, Value>> items;
        for (size_t i = 0; i < expression.operands.size(); i += 2) {
          Value key = operand(expression, i, scope);
          items.emplace_back(std::move(key), operand(expression, i + 1, scope));
        }
        return charged(make_dict(std::move(items)));
      }
      case Kind::kNot:
        return !truthy(operand(expression, 0, scope));
      case Kind::kNegative:
        return negate(operand(expression, 0, scope));
      case Kind::kPositive: {
        const Value value = operand(expression, 0, scope);
        return value.is<double>() ? value : Value(value.integer());
      }
      case Kind::kBinary: {
        const Value left = operand(expression, 0, scope);
        return charged(binary_operation(expression.name, left, operand(expression, 1, scope)));
      }
      case Kind::kAnd: {
        Value left = operand(expression, 0, scope);
        return truthy(left) ? operand(expression, 1, scope) : left;
      }
      case Kind::kOr: {
        Value left = operand(expression, 0, scope);
        return truthy(left) ? left : operand(expression, 1, scope);
      }
      case Kind::kCompare:
        return compare(expression, scope);
      case Kind::kConditional:
        if (truthy(operand(expression, 1, scope))) return operand(expression, 0, scope);
        if (expression.operands[2] != nullptr) return operand(expression, 2, scope);
        return Undefined{"the inline if-expression"};
      case Kind::kAttribute:
        return get_attribute(operand(expression, 0, scope), expression.name);
      case Kind::kItem: {
        const Value object = operand(expression, 0, scope);
        budget_.spend_bytes(object.is_string() ? object.weight() : 0);
        return get_item(object, operand(expression, 1, scope));
      }
      case Kind::kSlice: {
        const Value object = operand(expression, 0, scope);
        const Value start = optional_operand(expression, 1, scope),
                    stop = optional_operand(expression, 2, scope);
        budget_.spend_bytes(object.weight());
        return charged(slice(object, start, stop, optional_operand(expression, 3, scope)));
      }
      case Kind::kCall:
        return call(expression, scope);
      case Kind::kMethod: {
        const Value object = operand(expression, 0, scope);
        const Arguments arguments = evaluate_arguments(expression, scope);
        return charged(call_method(object, expression.name, arguments, budget_));
      }
      case Kind::kFilter:
        return evaluate_filter(expression, scope, nullptr);
      case Kind::kTest: {
        const Value subject = operand(expression, 0, scope);
        return apply_test(expression.name, subject, evaluate_arguments(expression, scope));
      }
    }
    return Undefined{};
  }

  Value look_up(const Expression& expression, const Scope& scope) {
    if (const Value* value = scope.find(expression.name)) return *value;
    line_ = expression.line;
    for (const char* name : {"caller", "varargs", "kwargs", "self", "super", "joiner", "cycler", "lipsum"}) {
      if (expression.name == name) throw Fault(text("\"{}\" is not supported", name));
    }
    return Undefined{expression.name};
  }

  Value compare(const Expression& expression, Scope& scope) {
    Value left = operand(expression, 0, scope);
    for (size_t i = 0; i < expression.names.size(); ++i) {
      const std::string& op = expression.names[i];
      Value right = operand(expression, i + 1, scope);
      budget_.spend_bytes(std::min(left.weight(), right.weight()));
      bool holds = false;
      if (op == "==") {
        holds = equal(left, right);
      } else if (op == "!=") {
        holds = !equal(left, right);
      } else if (op == "in" || op == "not in") {
        budget_.spend_bytes(right.weight());
        holds = contains(right, left) == (op == "in");
      } else if (op == "<") {
        holds = less(left, right);
      } else if (op == ">") {
        holds = less(right, left);
      } else if (op == "<=") {
        holds = less(left, right) || equal(left, right);
      } else {
        holds = less(right, left) || equal(left, right);
      }
      if (!holds) return false;
      left = std::move(right);
    }
    return true;
  }

  Arguments evaluate_arguments(const Expression& expression, Scope& scope) {
    Arguments arguments;
    for (size_t i = 1; i < expression.operands.size(); ++i)
      arguments.positional.push_back(operand(expression, i, scope));
    for (const auto& [name, value] : expression.keywords) {
      arguments.named.emplace_back(name, evaluate(*value, scope));
      line_ = expression.line;
    }
    return arguments;
  }

  Value evaluate_filter(const Expression& expression, Scope& scope, const Value* captured) {
    // The innermost filter of a block set has no operand: it takes what the block wrote.
    Value subject;
    if (expression.operands[0] == nullptr) {
      subject = *captured;
    } else if (captured != nullptr) {
      subject = evaluate_filter(*expression.operands[0], scope, captured);
    } else {
      subject = operand(expression, 0, scope);
    }
    const Arguments arguments = evaluate_arguments(expression, scope);
    line_ = expression.line;
    return apply_filter(expression.name, subject, arguments, budget_);
  }

  Value call(const Expression& expression, Scope& scope) {
    const Value callee = operand(expression, 0, scope);
    const Arguments arguments = evaluate_arguments(expression, scope);
    if (callee.is<Function>()) return charged(call_function(callee.as<Function>(), arguments));
    if (callee.is<Macro>()) return call_macro(callee.as<Macro>(), arguments, expression.line);
    if (callee.is_undefined())
      throw Fault(text("\"{}\" is undefined and cannot be called", callee.as<Undefined>().name));
    throw Fault(text("a {} cannot be called", type_name(callee)));
  }

  Value call_macro(const Macro& macro, const Arguments& arguments, int line) {
    const MacroStatement& definition = *macro.definition;
    const auto& names = definition.parameters;
    if (arguments.positional.size() > names.size()) {
      throw Fault(text("the macro \"{}\" takes {} arguments, not {}", definition.name, names.size(),
                       arguments.positional.size()));
    }
    std::vector<const Value*> given(names.size(), nullptr);
    for (size_t i = 0; i < arguments.positional.size(); ++i) given[i] = &arguments.positional[i];
    for (const auto& [name, value] : arguments.named) {
      const auto found = std::find(names.begin(), names.end(), name);
      if (found == names.end())
        throw Fault(text("the macro \"{}\" has no argument \"{}\"", definition.name, name));
      const Value*& slot = given[static_cast<size_t>(found - names.begin())];
      if (slot != nullptr)
        throw Fault(text("the argument \"{}\" of \"{}\" is given twice", name, definition.name));
      slot = &value;
    }
    Scope inner{macro.scope, {}};
    const size_t first_default = names.size() - definition.defaults.size();
    for (size_t i = 0; i < names.size(); ++i) {
      if (given[i] != nullptr) {
        inner.set(names[i], *given[i]);
      } else if (i >= first_default) {
        inner.set(names[i], evaluate(*definition.defaults[i - first_default], inner));
      } else {
        inner.set(names[i], Undefined{names[i]});
      }
    }
    std::string out;
    const Level level(*this);
    execute(definition.body, inner, out);
    line_ = line;
    return out;
  }

  Budget budget_{kBudget};
  int line_ = 1;
  int depth_ = 0;
};

}  // namespace

std::string render(const Block& program, std::vector<std::pair<std::string, Value>> variables) {
  return Interpreter().run(program, std::move(variables));
}

}  // namespace onggi::jinja

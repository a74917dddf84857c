// The parsed template.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/jinja_value.h"

namespace onggi::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

struct Expression {
  enum class Kind {
    kLiteral,      // value
    kName,         // name
    kList,         // operands
    kTuple,        // operands
    kDict,         // operands: key, value, key, value, ...
    kNot,          // operands[0]
    kNegative,     // operands[0]
    kPositive,     // operands[0]
    kBinary,       // name: operator; operands[0], operands[1]
    kAnd,          // operands[0], operands[1]
    kOr,           // operands[0], operands[1]
    kCompare,      // operands[0] names[0] operands[1] names[1] ...; names: == != < <= > >= in "not in"
    kConditional,  // operands: value, condition, other (may be null)
    kAttribute,    // operands[0].name
    kItem,         // operands[0][operands[1]]
    kSlice,        // operands[0][operands[1]:operands[2]:operands[3]], each may be null but the first
    kCall,         // operands[0](operands[1..], keywords)
    kMethod,       // operands[0].name(operands[1..], keywords)
    kFilter,       // operands[0] | name(operands[1..], keywords); operands[0] is null in a block set
    kTest,         // operands[0] is name(operands[1..])
  };
  Kind kind = Kind::kLiteral;
  int line = 0;
  int depth = 1;  // of the tree below, bounded by the parser so that recursion over it is safe
  std::string name;
  std::vector<std::string> names;
  Value value;
  std::vector<ExpressionPtr> operands;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
};

struct Statement;
using StatementPtr = std::unique_ptr<const Statement>;
using Block = std::vector<StatementPtr>;

// Where an assignment goes: a name, or an attribute of a namespace, or several names for a tuple.
struct Target {
  std::string name;
  std::string attribute;      // empty: the name itself
  std::vector<Target> parts;  // not empty: unpacks
};

struct MacroStatement {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // of the last parameters
  Block body;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // expressions[0]
    kIf,        // expressions[i] -> blocks[i]; one block more: else
    kFor,       // target in expressions[0], if expressions[1] (may be null); blocks[0], else blocks[1]
    kSet,       // targets[0] = expressions[0]
    kSetBlock,  // targets[0] = blocks[0] through the filters of expressions[0] (may be null)
    kMacro,     // macro
    kWith,      // targets[i] = expressions[i]; blocks[0]
    kScope,     // blocks[0] as it is ({% generation %})
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 0;
  std::string text;
  std::vector<ExpressionPtr> expressions;
  std::vector<Target> targets;
  std::vector<Block> blocks;
  MacroStatement macro;
};

}  // namespace onggi::jinja

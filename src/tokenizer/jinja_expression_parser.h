// Jinja expressions -> Expression trees.
#pragma once

#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_token_stream.h"

namespace onggi::jinja {

// Whether "a if b else c" may stand at the top: not in the head of a loop, where "if" begins its filter.
enum class Conditional { kNo, kYes };

// Each function throws InputError naming construct and line for what is not Jinja, or not supported.
class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}

  // a, b, c: a tuple; one expression alone is itself.
  ExpressionPtr tuple(Conditional conditional = Conditional::kYes);
  ExpressionPtr expression();
  // Behind "|": base | name(arguments). base may be null, for the filters of a block set.
  ExpressionPtr filter(ExpressionPtr base);

 private:
  struct Nesting;
  enum class Filters { kNo, kYes };

  void add(Expression& parent, ExpressionPtr child) const;
  ExpressionPtr binary(Expression::Kind kind, std::string name, ExpressionPtr left,
                       ExpressionPtr right) const;
  ExpressionPtr literal(Value value);

  // By rising precedence.
  ExpressionPtr disjunction();
  ExpressionPtr conjunction();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(Filters filters);
  ExpressionPtr primary();
  ExpressionPtr parenthesised();
  ExpressionPtr list();
  ExpressionPtr dict();
  ExpressionPtr postfix(ExpressionPtr base);
  ExpressionPtr attribute(ExpressionPtr base);
  ExpressionPtr subscript(ExpressionPtr base);
  void arguments(Expression& call);
  ExpressionPtr filters_and_tests(ExpressionPtr base);
  ExpressionPtr test(ExpressionPtr base);
  bool begins_test_argument() const;

  TokenStream& tokens_;
  int nesting_ = 0;
};

}  // namespace onggi::jinja

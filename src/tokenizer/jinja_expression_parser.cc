#include "tokenizer/jinja_expression_parser.h"

#include <algorithm>
#include <charconv>

#include "tokenizer/jinja_filters.h"

namespace onggi::jinja {
namespace {

using Kind = Expression::Kind;

constexpr int kMaxExpressionDepth = 200;

std::unique_ptr<Expression> make(Kind kind, int line) {
  auto result = std::make_unique<Expression>();
  result->kind = kind;
  result->line = line;
  return result;
}
Value integer(const Token& token) {
  std::string digits;
  std::copy_if(token.text.begin(), token.text.end(), std::back_inserter(digits),
               [](char c) { return c != '_'; });
  int base = 10;
  if (digits.size() > 1 && digits[0] == '0') {
    const char kind = static_cast<char>(digits[1] | 0x20);
    base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
    if (base != 10) {
      digits.erase(0, 2);
    } else if (digits.find_first_not_of('0') != std::string::npos) {
      fail(token.line, text("the number {} begins with zero", token.text.substr(0, 60)));
    }
  }
  int64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number, base);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    fail(token.line,
         text("the number {} cannot be read, or has more than 64 bits", token.text.substr(0, 60)));
  }
  return number;
}

Value real(const Token& token) {
  std::string digits;
  std::copy_if(token.text.begin(), token.text.end(), std::back_inserter(digits),
               [](char c) { return c != '_'; });
  double number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    fail(token.line, text("the number {} cannot be read", token.text.substr(0, 60)));
  }
  return number;
}

}  // namespace

// Counts open calls of the parser itself: "((((" recurses before any node exists.
struct ExpressionParser::Nesting {
  explicit Nesting(ExpressionParser& parser) : parser(parser) {
    if (++parser.nesting_ > kMaxExpressionDepth) {
      fail(parser.tokens_.current().line,
           text("an expression is nested deeper than {}", kMaxExpressionDepth));
    }
  }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
  ~Nesting() { --parser.nesting_; }
  ExpressionParser& parser;
};

// Adds a child; the depth of the tree stays below what recursion over it can bear.
void ExpressionParser::add(Expression& parent, ExpressionPtr child) const {
  if (child != nullptr) {
    parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxExpressionDepth) {
      fail(parent.line, text("an expression is nested deeper than {}", kMaxExpressionDepth));
    }
  }
  parent.operands.push_back(std::move(child));
}
ExpressionPtr ExpressionParser::binary(Kind kind, std::string name, ExpressionPtr left,
                                       ExpressionPtr right) const {
  auto result = make(kind, left->line);
  result->name = std::move(name);
  add(*result, std::move(left));
  add(*result, std::move(right));
  return result;
}

ExpressionPtr ExpressionParser::tuple(Conditional conditional) {
  const auto item = [&] { return conditional == Conditional::kYes ? expression() : disjunction(); };
  const int line = tokens_.current().line;
  ExpressionPtr first = item();
  if (!tokens_.is_operator(",")) return first;
  auto result = make(Kind::kTuple, line);
  add(*result, std::move(first));
  while (tokens_.accept_operator(",")) {
    if (tokens_.current().kind == TokenKind::kVariableEnd || tokens_.current().kind == TokenKind::kBlockEnd ||
        tokens_.is_operator(")"))
      break;
    add(*result, item());
  }
  return result;
}

ExpressionPtr ExpressionParser::expression() {
  const Nesting nesting(*this);
  ExpressionPtr value = disjunction();
  while (tokens_.accept_name("if")) {
    auto result = make(Kind::kConditional, value->line);
    add(*result, std::move(value));
    add(*result, disjunction());
    add(*result, tokens_.accept_name("else") ? expression() : nullptr);
    value = std::move(result);
  }
  return value;
}

ExpressionPtr ExpressionParser::disjunction() {
  ExpressionPtr left = conjunction();
  while (tokens_.accept_name("or")) left = binary(Kind::kOr, "or", std::move(left), conjunction());
  return left;
}

ExpressionPtr ExpressionParser::conjunction() {
  ExpressionPtr left = negation();
  while (tokens_.accept_name("and")) left = binary(Kind::kAnd, "and", std::move(left), negation());
  return left;
}

ExpressionPtr ExpressionParser::negation() {
  const Nesting nesting(*this);
  if (!tokens_.is_name("not")) return comparison();
  auto result = make(Kind::kNot, tokens_.take().line);
  add(*result, negation());
  return result;
}

ExpressionPtr ExpressionParser::comparison() {
  ExpressionPtr left = sum();
  std::unique_ptr<Expression> result;
  for (;;) {
    std::string op;
    static constexpr std::string_view kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};
    if (tokens_.current().kind == TokenKind::kOperator &&
        std::find(std::begin(kComparisons), std::end(kComparisons), tokens_.current().text) !=
            std::end(kComparisons)) {
      op = tokens_.take().text;
    } else if (tokens_.accept_name("in")) {
      op = "in";
    } else if (tokens_.is_name("not") && tokens_.ahead().kind == TokenKind::kName &&
               tokens_.ahead().text == "in") {
      tokens_.take();
      tokens_.take();
      op = "not in";
    } else {
      break;
    }
    if (result == nullptr) {
      result = make(Kind::kCompare, left->line);
      add(*result, std::move(left));
    }
    result->names.push_back(std::move(op));
    add(*result, sum());
  }
  if (result != nullptr) return result;
  return left;
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concatenation();
  while (tokens_.is_operator("+") || tokens_.is_operator("-")) {
    std::string op = tokens_.take().text;
    left = binary(Kind::kBinary, std::move(op), std::move(left), concatenation());
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  ExpressionPtr left = product();
  while (tokens_.accept_operator("~")) left = binary(Kind::kBinary, "~", std::move(left), product());
  return left;
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = power();
  while (tokens_.is_operator("*") || tokens_.is_operator("/") || tokens_.is_operator("//") ||
         tokens_.is_operator("%")) {
    std::string op = tokens_.take().text;
    left = binary(Kind::kBinary, std::move(op), std::move(left), power());
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary(Filters::kYes);
  while (tokens_.accept_operator("**"))
    left = binary(Kind::kBinary, "**", std::move(left), unary(Filters::kYes));
  return left;
}

ExpressionPtr ExpressionParser::unary(Filters filters) {
  const Nesting nesting(*this);
  ExpressionPtr result;
  if (tokens_.is_operator("-") || tokens_.is_operator("+")) {
    auto sign = make(tokens_.is_operator("-") ? Kind::kNegative : Kind::kPositive, tokens_.current().line);
    tokens_.take();
    add(*sign, unary(Filters::kNo));
    result = std::move(sign);
  } else {
    result = primary();
  }
  result = postfix(std::move(result));
  return filters == Filters::kYes ? filters_and_tests(std::move(result)) : std::move(result);
}

ExpressionPtr ExpressionParser::literal(Value value) {
  auto result = make(Kind::kLiteral, tokens_.current().line);
  result->value = std::move(value);
  return result;
}

ExpressionPtr ExpressionParser::primary() {
  const Token& token = tokens_.current();
  switch (token.kind) {
    case TokenKind::kName: {
      ExpressionPtr result;
      if (token.text == "true" || token.text == "True") {
        result = literal(true);
      } else if (token.text == "false" || token.text == "False") {
        result = literal(false);
      } else if (token.text == "none" || token.text == "None") {
        result = literal(None{});
      } else {
        auto name = make(Kind::kName, token.line);
        name->name = token.text;
        result = std::move(name);
      }
      tokens_.take();
      return result;
    }
    case TokenKind::kString: {
      auto result = make(Kind::kLiteral, token.line);
      std::string joined;
      while (tokens_.current().kind == TokenKind::kString)
        joined += tokens_.take().text;  // neighbours are one string
      result->value = Value(std::move(joined));
      return result;
    }
    case TokenKind::kInteger: {
      ExpressionPtr result = literal(integer(token));
      tokens_.take();
      return result;
    }
    case TokenKind::kFloat: {
      ExpressionPtr result = literal(real(token));
      tokens_.take();
      return result;
    }
    default:
      break;
  }
  if (tokens_.is_operator("(")) return parenthesised();
  if (tokens_.is_operator("[")) return list();
  if (tokens_.is_operator("{")) return dict();
  fail(token.line, text("unexpected {}", tokens_.describe(token)));
}

ExpressionPtr ExpressionParser::parenthesised() {
  const int line = tokens_.take().line;
  if (tokens_.accept_operator(")")) return make(Kind::kTuple, line);
  ExpressionPtr result = tuple();
  tokens_.expect_operator(")");
  return result;
}

ExpressionPtr ExpressionParser::list() {
  auto result = make(Kind::kList, tokens_.take().line);
  while (!tokens_.is_operator("]")) {
    add(*result, expression());
    if (!tokens_.accept_operator(",")) break;
  }
  tokens_.expect_operator("]");
  return result;
}

ExpressionPtr ExpressionParser::dict() {
  auto result = make(Kind::kDict, tokens_.take().line);
  while (!tokens_.is_operator("}")) {
    add(*result, expression());
    tokens_.expect_operator(":");
    add(*result, expression());
    if (!tokens_.accept_operator(",")) break;
  }
  tokens_.expect_operator("}");
  return result;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr base) {
  for (;;) {
    if (tokens_.accept_operator(".")) {
      base = attribute(std::move(base));
    } else if (tokens_.accept_operator("[")) {
      base = subscript(std::move(base));
    } else if (tokens_.is_operator("(")) {
      auto result = make(Kind::kCall, base->line);
      add(*result, std::move(base));
      arguments(*result);
      base = std::move(result);
    } else {
      return base;
    }
  }
}

ExpressionPtr ExpressionParser::attribute(ExpressionPtr base) {
  const int line = tokens_.current().line;
  if (tokens_.current().kind == TokenKind::kInteger) {  // items.0
    auto result = make(Kind::kItem, line);
    add(*result, std::move(base));
    add(*result, literal(integer(tokens_.current())));
    tokens_.take();
    return result;
  }
  std::string name = tokens_.expect_name();
  if (name.substr(0, 2) == "__") fail(line, text("the attribute \"{}\" is not allowed", name));
  const bool call = tokens_.is_operator("(");
  auto result = make(call ? Kind::kMethod : Kind::kAttribute, line);
  result->name = std::move(name);
  add(*result, std::move(base));
  if (call) arguments(*result);
  return result;
}

// Behind "[".
ExpressionPtr ExpressionParser::subscript(ExpressionPtr base) {
  const int line = tokens_.current().line;
  ExpressionPtr bounds[3];
  size_t colons = 0;
  if (!tokens_.is_operator(":")) bounds[0] = tuple();
  while (colons < 2 && tokens_.accept_operator(":")) {
    ++colons;
    if (!tokens_.is_operator(":") && !tokens_.is_operator("]")) bounds[colons] = expression();
  }
  if (tokens_.is_operator(",")) fail(line, text("a slice inside a tuple is not supported"));
  tokens_.expect_operator("]");
  auto result = make(colons == 0 ? Kind::kItem : Kind::kSlice, line);
  add(*result, std::move(base));
  if (colons == 0) {
    add(*result, std::move(bounds[0]));
  } else {
    for (auto& bound : bounds) add(*result, std::move(bound));
  }
  return result;
}

// "(a, b, key=c)" to the call's operands and keywords.
void ExpressionParser::arguments(Expression& call) {
  tokens_.expect_operator("(");
  while (!tokens_.is_operator(")")) {
    if (tokens_.is_operator("*") || tokens_.is_operator("**")) {
      fail(tokens_.current().line,
           text("\"{}\" before an argument is not supported", tokens_.current().text));
    }
    if (tokens_.current().kind == TokenKind::kName && tokens_.ahead().kind == TokenKind::kOperator &&
        tokens_.ahead().text == "=") {
      std::string name = tokens_.take().text;
      tokens_.take();
      ExpressionPtr value = expression();
      call.depth = std::max(call.depth, value->depth + 1);
      call.keywords.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call.keywords.empty())
        fail(tokens_.current().line, text("an argument without name stands behind a named one"));
      add(call, expression());
    }
    if (!tokens_.accept_operator(",")) break;
  }
  tokens_.expect_operator(")");
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr base) {
  for (;;) {
    if (tokens_.accept_operator("|")) {
      base = filter(std::move(base));
    } else if (tokens_.is_name("is")) {
      base = test(std::move(base));
    } else if (tokens_.is_operator("(")) {  // (x | f)(...) without parentheses, as Jinja reads it
      auto result = make(Kind::kCall, base->line);
      add(*result, std::move(base));
      arguments(*result);
      base = std::move(result);
    } else {
      return base;
    }
  }
}

// Behind "|".
ExpressionPtr ExpressionParser::filter(ExpressionPtr base) {
  auto result = make(Kind::kFilter, tokens_.current().line);
  result->name = tokens_.expect_name();
  if (!is_filter(result->name)) fail(result->line, text("the filter \"{}\" is not supported", result->name));
  add(*result, std::move(base));
  if (tokens_.is_operator("(")) arguments(*result);
  return result;
}

ExpressionPtr ExpressionParser::test(ExpressionPtr base) {
  tokens_.take();  // is
  const bool negated = tokens_.accept_name("not");
  auto result = make(Kind::kTest, tokens_.current().line);
  result->name = tokens_.expect_name();
  if (!is_test(result->name)) fail(result->line, text("the test \"{}\" is not supported", result->name));
  add(*result, std::move(base));
  if (tokens_.is_operator("(")) {
    arguments(*result);
  } else if (begins_test_argument()) {
    add(*result, postfix(primary()));
  }
  if (!negated) return result;
  auto inverse = make(Kind::kNot, result->line);
  add(*inverse, std::move(result));
  return inverse;
}

// "x is divisibleby 3": an argument without parentheses.
bool ExpressionParser::begins_test_argument() const {
  const Token& token = tokens_.current();
  if (token.kind == TokenKind::kName) {
    if (token.text == "is") fail(token.line, text("a test directly after a test"));
    return token.text != "else" && token.text != "or" && token.text != "and";
  }
  return token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
         token.kind == TokenKind::kFloat || tokens_.is_operator("[") || tokens_.is_operator("{");
}

}  // namespace onggi::jinja

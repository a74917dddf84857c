#include "tokenizer/jinja_parser.h"

#include <algorithm>
#include <charconv>

#include "base/text.h"
#include "tokenizer/jinja_filters.h"
#include "tokenizer/jinja_lexer.h"

namespace onggi::jinja {
namespace {

using Kind = Expression::Kind;

constexpr int kMaxExpressionDepth = 200;
constexpr int kMaxBlockDepth = 50;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Block run() {
    Block block = statements({});
    if (current().kind != TokenKind::kEnd) fail(current().line, text("unexpected {}", describe(current())));
    return block;
  }

 private:
  // --- tokens ---
  const Token& current() const { return tokens_[position_]; }
  const Token& ahead() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  const Token& take() { return tokens_[current().kind == TokenKind::kEnd ? position_ : position_++]; }
  bool is_operator(std::string_view op) const {
    return current().kind == TokenKind::kOperator && current().text == op;
  }
  bool is_name(std::string_view name) const {
    return current().kind == TokenKind::kName && current().text == name;
  }
  bool accept_operator(std::string_view op) { return is_operator(op) && (take(), true); }
  bool accept_name(std::string_view name) { return is_name(name) && (take(), true); }
  void expect_operator(std::string_view op) {
    if (!accept_operator(op))
      fail(current().line, text("expected \"{}\" but found {}", op, describe(current())));
  }
  std::string expect_name() {
    if (current().kind != TokenKind::kName) {
      fail(current().line, text("expected a name but found {}", describe(current())));
    }
    return take().text;
  }
  void expect(TokenKind kind) {
    if (current().kind != kind) fail(current().line, text("unexpected {}", describe(current())));
    take();
  }
  static std::string describe(const Token& token) {
    switch (token.kind) {
      case TokenKind::kEnd:
        return text("the end of the template");
      case TokenKind::kVariableEnd:
        return "\"}}\"";
      case TokenKind::kBlockEnd:
        return "\"%}\"";
      case TokenKind::kString:
        return text("a string");
      default:
        return "\"" + token.text.substr(0, 60) + "\"";
    }
  }

  // --- statements ---

  // Up to a block tag whose name is in end_names, which is left current (behind its "{%"), or to the end.
  Block statements(const std::vector<std::string_view>& end_names) {
    if (++block_depth_ > kMaxBlockDepth)
      fail(current().line, text("blocks are nested deeper than {}", kMaxBlockDepth));
    Block block;
    for (;;) {
      const Token& token = current();
      if (token.kind == TokenKind::kText) {
        auto statement = make_statement(Statement::Kind::kText);
        statement->text = take().text;
        block.push_back(std::move(statement));
      } else if (token.kind == TokenKind::kVariableBegin) {
        take();
        auto statement = make_statement(Statement::Kind::kOutput);
        statement->expressions.push_back(tuple());
        expect(TokenKind::kVariableEnd);
        block.push_back(std::move(statement));
      } else if (token.kind == TokenKind::kBlockBegin) {
        take();
        const std::string& name = current().text;
        if (current().kind == TokenKind::kName &&
            std::find(end_names.begin(), end_names.end(), name) != end_names.end()) {
          break;
        }
        block.push_back(statement());
      } else {
        if (!end_names.empty()) {
          fail(token.line, text("the block that \"{}\" ends has no end", end_names.back()));
        }
        break;
      }
    }
    --block_depth_;
    return block;
  }

  std::unique_ptr<Statement> make_statement(Statement::Kind kind) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = current().line;
    return statement;
  }

  StatementPtr statement() {
    const Token& name = current();
    if (name.kind != TokenKind::kName) fail(name.line, text("expected the name of a block"));
    if (name.text == "if") return if_statement();
    if (name.text == "for") return for_statement();
    if (name.text == "set") return set_statement();
    if (name.text == "macro") return macro_statement();
    if (name.text == "with") return with_statement();
    if (name.text == "generation") return generation_statement();
    if (name.text == "break" || name.text == "continue") {
      if (loop_depth_ == 0) fail(name.line, text("\"{}\" outside of a loop", name.text));
      auto result =
          make_statement(name.text == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue);
      take();
      expect(TokenKind::kBlockEnd);
      return result;
    }
    fail(name.line, text("the statement \"{}\" is not supported", name.text));
  }

  void end_block(std::string_view name) {
    if (!accept_name(name)) fail(current().line, text("expected \"{}\"", name));
    expect(TokenKind::kBlockEnd);
  }

  StatementPtr if_statement() {
    auto result = make_statement(Statement::Kind::kIf);
    take();
    for (;;) {
      result->expressions.push_back(tuple(Conditional::kNo));
      expect(TokenKind::kBlockEnd);
      result->blocks.push_back(statements({"elif", "else", "endif"}));
      if (accept_name("elif")) continue;
      if (accept_name("else")) {
        expect(TokenKind::kBlockEnd);
        result->blocks.push_back(statements({"endif"}));
      }
      end_block("endif");
      return result;
    }
  }

  StatementPtr for_statement() {
    auto result = make_statement(Statement::Kind::kFor);
    take();
    result->targets.push_back(assignment_target(Attributes::kNo));
    if (!accept_name("in")) fail(current().line, text("expected \"in\" but found {}", describe(current())));
    result->expressions.push_back(tuple(Conditional::kNo));
    result->expressions.push_back(accept_name("if") ? expression() : nullptr);
    if (is_name("recursive")) fail(current().line, text("a recursive loop is not supported"));
    expect(TokenKind::kBlockEnd);
    ++loop_depth_;
    result->blocks.push_back(statements({"else", "endfor"}));
    --loop_depth_;
    if (accept_name("else")) {
      expect(TokenKind::kBlockEnd);
      result->blocks.push_back(statements({"endfor"}));
    }
    end_block("endfor");
    return result;
  }

  enum class Attributes { kNo, kYes };

  Target single_target(Attributes attributes) {
    Target target;
    if (accept_operator("(")) {
      target = assignment_target(Attributes::kNo);
      expect_operator(")");
      return target;
    }
    const int line = current().line;
    target.name = expect_name();
    static constexpr std::string_view kReserved[] = {"true", "false", "none", "True", "False", "None"};
    if (std::find(std::begin(kReserved), std::end(kReserved), target.name) != std::end(kReserved)) {
      fail(line, text("an assignment to \"{}\"", target.name));
    }
    if (attributes == Attributes::kYes && accept_operator(".")) target.attribute = expect_name();
    return target;
  }

  Target assignment_target(Attributes attributes) {
    if (++block_depth_ > kMaxBlockDepth) fail(current().line, text("an assignment is nested too deep"));
    Target first = single_target(attributes);
    if (is_operator(",")) {
      Target all;
      all.parts.push_back(std::move(first));
      while (accept_operator(",")) {
        if (is_operator("=") || is_name("in") || is_operator(")")) break;
        all.parts.push_back(single_target(attributes));
      }
      first = std::move(all);
    }
    --block_depth_;
    return first;
  }

  StatementPtr set_statement() {
    auto result = make_statement(Statement::Kind::kSet);
    take();
    result->targets.push_back(assignment_target(Attributes::kYes));
    if (accept_operator("=")) {
      result->expressions.push_back(tuple());
      expect(TokenKind::kBlockEnd);
      return result;
    }
    result->kind = Statement::Kind::kSetBlock;
    ExpressionPtr filters;
    while (accept_operator("|")) filters = filter(std::move(filters));
    result->expressions.push_back(std::move(filters));
    expect(TokenKind::kBlockEnd);
    result->blocks.push_back(statements({"endset"}));
    end_block("endset");
    return result;
  }

  StatementPtr macro_statement() {
    auto result = make_statement(Statement::Kind::kMacro);
    take();
    result->macro.name = expect_name();
    expect_operator("(");
    while (!is_operator(")")) {
      result->macro.parameters.push_back(expect_name());
      if (accept_operator("=")) {
        result->macro.defaults.push_back(expression());
      } else if (!result->macro.defaults.empty()) {
        fail(current().line, text("a parameter without default stands behind one with a default"));
      }
      if (!accept_operator(",")) break;
    }
    expect_operator(")");
    expect(TokenKind::kBlockEnd);
    const int loops = std::exchange(loop_depth_, 0);
    result->macro.body = statements({"endmacro"});
    loop_depth_ = loops;
    take();
    if (current().kind == TokenKind::kName) take();  // {% endmacro name %}
    expect(TokenKind::kBlockEnd);
    return result;
  }

  StatementPtr with_statement() {
    auto result = make_statement(Statement::Kind::kWith);
    take();
    while (current().kind != TokenKind::kBlockEnd) {
      result->targets.push_back(assignment_target(Attributes::kNo));
      expect_operator("=");
      result->expressions.push_back(expression());
      if (!accept_operator(",")) break;
    }
    expect(TokenKind::kBlockEnd);
    result->blocks.push_back(statements({"endwith"}));
    end_block("endwith");
    return result;
  }

  // Hugging Face's mark of what the assistant says; it writes nothing itself.
  StatementPtr generation_statement() {
    auto result = make_statement(Statement::Kind::kScope);
    take();
    expect(TokenKind::kBlockEnd);
    result->blocks.push_back(statements({"endgeneration"}));
    end_block("endgeneration");
    return result;
  }

  // --- expressions, by rising precedence ---

  enum class Conditional { kNo, kYes };

  std::unique_ptr<Expression> make(Kind kind, int line) const {
    auto result = std::make_unique<Expression>();
    result->kind = kind;
    result->line = line;
    return result;
  }
  // Adds a child; the depth of the tree stays below what recursion over it can bear.
  void add(Expression& parent, ExpressionPtr child) const {
    if (child != nullptr) {
      parent.depth = std::max(parent.depth, child->depth + 1);
      if (parent.depth > kMaxExpressionDepth) {
        fail(parent.line, text("an expression is nested deeper than {}", kMaxExpressionDepth));
      }
    }
    parent.operands.push_back(std::move(child));
  }
  ExpressionPtr binary(Kind kind, std::string name, ExpressionPtr left, ExpressionPtr right) const {
    auto result = make(kind, left->line);
    result->name = std::move(name);
    add(*result, std::move(left));
    add(*result, std::move(right));
    return result;
  }

  // Counts open calls of the parser itself: "((((" recurses before any node exists.
  struct Nesting {
    explicit Nesting(Parser& parser) : parser(parser) {
      if (++parser.nesting_ > kMaxExpressionDepth) {
        fail(parser.current().line, text("an expression is nested deeper than {}", kMaxExpressionDepth));
      }
    }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    ~Nesting() { --parser.nesting_; }
    Parser& parser;
  };

  // a, b, c: a tuple; one expression alone is itself.
  ExpressionPtr tuple(Conditional conditional = Conditional::kYes) {
    const auto item = [&] { return conditional == Conditional::kYes ? expression() : disjunction(); };
    const int line = current().line;
    ExpressionPtr first = item();
    if (!is_operator(",")) return first;
    auto result = make(Kind::kTuple, line);
    add(*result, std::move(first));
    while (accept_operator(",")) {
      if (current().kind == TokenKind::kVariableEnd || current().kind == TokenKind::kBlockEnd ||
          is_operator(")"))
        break;
      add(*result, item());
    }
    return result;
  }

  ExpressionPtr expression() {
    const Nesting nesting(*this);
    ExpressionPtr value = disjunction();
    while (accept_name("if")) {
      auto result = make(Kind::kConditional, value->line);
      add(*result, std::move(value));
      add(*result, disjunction());
      add(*result, accept_name("else") ? expression() : nullptr);
      value = std::move(result);
    }
    return value;
  }

  ExpressionPtr disjunction() {
    ExpressionPtr left = conjunction();
    while (accept_name("or")) left = binary(Kind::kOr, "or", std::move(left), conjunction());
    return left;
  }

  ExpressionPtr conjunction() {
    ExpressionPtr left = negation();
    while (accept_name("and")) left = binary(Kind::kAnd, "and", std::move(left), negation());
    return left;
  }

  ExpressionPtr negation() {
    const Nesting nesting(*this);
    if (!is_name("not")) return comparison();
    auto result = make(Kind::kNot, take().line);
    add(*result, negation());
    return result;
  }

  ExpressionPtr comparison() {
    ExpressionPtr left = sum();
    std::unique_ptr<Expression> result;
    for (;;) {
      std::string op;
      static constexpr std::string_view kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};
      if (current().kind == TokenKind::kOperator &&
          std::find(std::begin(kComparisons), std::end(kComparisons), current().text) !=
              std::end(kComparisons)) {
        op = take().text;
      } else if (accept_name("in")) {
        op = "in";
      } else if (is_name("not") && ahead().kind == TokenKind::kName && ahead().text == "in") {
        take();
        take();
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

  ExpressionPtr sum() {
    ExpressionPtr left = concatenation();
    while (is_operator("+") || is_operator("-")) {
      std::string op = take().text;
      left = binary(Kind::kBinary, std::move(op), std::move(left), concatenation());
    }
    return left;
  }

  ExpressionPtr concatenation() {
    ExpressionPtr left = product();
    while (accept_operator("~")) left = binary(Kind::kBinary, "~", std::move(left), product());
    return left;
  }

  ExpressionPtr product() {
    ExpressionPtr left = power();
    while (is_operator("*") || is_operator("/") || is_operator("//") || is_operator("%")) {
      std::string op = take().text;
      left = binary(Kind::kBinary, std::move(op), std::move(left), power());
    }
    return left;
  }

  ExpressionPtr power() {
    ExpressionPtr left = unary(Filters::kYes);
    while (accept_operator("**")) left = binary(Kind::kBinary, "**", std::move(left), unary(Filters::kYes));
    return left;
  }

  enum class Filters { kNo, kYes };

  ExpressionPtr unary(Filters filters) {
    const Nesting nesting(*this);
    ExpressionPtr result;
    if (is_operator("-") || is_operator("+")) {
      auto sign = make(is_operator("-") ? Kind::kNegative : Kind::kPositive, current().line);
      take();
      add(*sign, unary(Filters::kNo));
      result = std::move(sign);
    } else {
      result = primary();
    }
    result = postfix(std::move(result));
    return filters == Filters::kYes ? filters_and_tests(std::move(result)) : std::move(result);
  }

  ExpressionPtr literal(Value value) {
    auto result = make(Kind::kLiteral, current().line);
    result->value = std::move(value);
    return result;
  }

  ExpressionPtr primary() {
    const Token& token = current();
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
        take();
        return result;
      }
      case TokenKind::kString: {
        auto result = make(Kind::kLiteral, token.line);
        std::string joined;
        while (current().kind == TokenKind::kString) joined += take().text;  // neighbours are one string
        result->value = Value(std::move(joined));
        return result;
      }
      case TokenKind::kInteger: {
        ExpressionPtr result = literal(integer(token));
        take();
        return result;
      }
      case TokenKind::kFloat: {
        ExpressionPtr result = literal(real(token));
        take();
        return result;
      }
      default:
        break;
    }
    if (is_operator("(")) return parenthesised();
    if (is_operator("[")) return list();
    if (is_operator("{")) return dict();
    fail(token.line, text("unexpected {}", describe(token)));
  }

  static Value integer(const Token& token) {
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

  static Value real(const Token& token) {
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

  ExpressionPtr parenthesised() {
    const int line = take().line;
    if (accept_operator(")")) return make(Kind::kTuple, line);
    ExpressionPtr result = tuple();
    expect_operator(")");
    return result;
  }

  ExpressionPtr list() {
    auto result = make(Kind::kList, take().line);
    while (!is_operator("]")) {
      add(*result, expression());
      if (!accept_operator(",")) break;
    }
    expect_operator("]");
    return result;
  }

  ExpressionPtr dict() {
    auto result = make(Kind::kDict, take().line);
    while (!is_operator("}")) {
      add(*result, expression());
      expect_operator(":");
      add(*result, expression());
      if (!accept_operator(",")) break;
    }
    expect_operator("}");
    return result;
  }

  ExpressionPtr postfix(ExpressionPtr base) {
    for (;;) {
      if (accept_operator(".")) {
        base = attribute(std::move(base));
      } else if (accept_operator("[")) {
        base = subscript(std::move(base));
      } else if (is_operator("(")) {
        auto result = make(Kind::kCall, base->line);
        add(*result, std::move(base));
        arguments(*result);
        base = std::move(result);
      } else {
        return base;
      }
    }
  }

  ExpressionPtr attribute(ExpressionPtr base) {
    const int line = current().line;
    if (current().kind == TokenKind::kInteger) {  // items.0
      auto result = make(Kind::kItem, line);
      add(*result, std::move(base));
      add(*result, literal(integer(current())));
      take();
      return result;
    }
    std::string name = expect_name();
    if (name.substr(0, 2) == "__") fail(line, text("the attribute \"{}\" is not allowed", name));
    const bool call = is_operator("(");
    auto result = make(call ? Kind::kMethod : Kind::kAttribute, line);
    result->name = std::move(name);
    add(*result, std::move(base));
    if (call) arguments(*result);
    return result;
  }

  // Behind "[".
  ExpressionPtr subscript(ExpressionPtr base) {
    const int line = current().line;
    ExpressionPtr bounds[3];
    size_t colons = 0;
    if (!is_operator(":")) bounds[0] = tuple();
    while (colons < 2 && accept_operator(":")) {
      ++colons;
      if (!is_operator(":") && !is_operator("]")) bounds[colons] = expression();
    }
    if (is_operator(",")) fail(line, text("a slice inside a tuple is not supported"));
    expect_operator("]");
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
  void arguments(Expression& call) {
    expect_operator("(");
    while (!is_operator(")")) {
      if (is_operator("*") || is_operator("**")) {
        fail(current().line, text("\"{}\" before an argument is not supported", current().text));
      }
      if (current().kind == TokenKind::kName && ahead().kind == TokenKind::kOperator && ahead().text == "=") {
        std::string name = take().text;
        take();
        ExpressionPtr value = expression();
        call.depth = std::max(call.depth, value->depth + 1);
        call.keywords.emplace_back(std::move(name), std::move(value));
      } else {
        if (!call.keywords.empty())
          fail(current().line, text("an argument without name stands behind a named one"));
        add(call, expression());
      }
      if (!accept_operator(",")) break;
    }
    expect_operator(")");
  }

  ExpressionPtr filters_and_tests(ExpressionPtr base) {
    for (;;) {
      if (accept_operator("|")) {
        base = filter(std::move(base));
      } else if (is_name("is")) {
        base = test(std::move(base));
      } else if (is_operator("(")) {  // (x | f)(...) without parentheses, as Jinja reads it
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
  ExpressionPtr filter(ExpressionPtr base) {
    auto result = make(Kind::kFilter, current().line);
    result->name = expect_name();
    if (!is_filter(result->name))
      fail(result->line, text("the filter \"{}\" is not supported", result->name));
    add(*result, std::move(base));
    if (is_operator("(")) arguments(*result);
    return result;
  }

  ExpressionPtr test(ExpressionPtr base) {
    take();  // is
    const bool negated = accept_name("not");
    auto result = make(Kind::kTest, current().line);
    result->name = expect_name();
    if (!is_test(result->name)) fail(result->line, text("the test \"{}\" is not supported", result->name));
    add(*result, std::move(base));
    if (is_operator("(")) {
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
  bool begins_test_argument() const {
    const Token& token = current();
    if (token.kind == TokenKind::kName) {
      if (token.text == "is") fail(token.line, text("a test directly after a test"));
      return token.text != "else" && token.text != "or" && token.text != "and";
    }
    return token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
           token.kind == TokenKind::kFloat || is_operator("[") || is_operator("{");
  }

  std::vector<Token> tokens_;
  size_t position_ = 0;
  int block_depth_ = 0;
  int loop_depth_ = 0;
  int nesting_ = 0;
};

}  // namespace

Block parse(std::string_view source) { return Parser(lex(source)).run(); }

}  // namespace onggi::jinja

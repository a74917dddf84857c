#include "tokenizer/jinja_parser.h"

#include <algorithm>

#include "base/text.h"
#include "tokenizer/jinja_expression_parser.h"

namespace onggi::jinja {
namespace {

constexpr int kMaxBlockDepth = 50;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Block run() {
    Block block = statements({});
    if (tokens_.current().kind != TokenKind::kEnd) {
      fail(tokens_.current().line, text("unexpected {}", TokenStream::describe(tokens_.current())));
    }
    return block;
  }

 private:
  // Up to a block tag whose name is in end_names, which is left current (behind its "{%"), or to the end.
  Block statements(const std::vector<std::string_view>& end_names) {
    if (++block_depth_ > kMaxBlockDepth)
      fail(tokens_.current().line, text("blocks are nested deeper than {}", kMaxBlockDepth));
    Block block;
    for (;;) {
      const Token& token = tokens_.current();
      if (token.kind == TokenKind::kText) {
        auto statement = make_statement(Statement::Kind::kText);
        statement->text = tokens_.take().text;
        block.push_back(std::move(statement));
      } else if (token.kind == TokenKind::kVariableBegin) {
        tokens_.take();
        auto statement = make_statement(Statement::Kind::kOutput);
        statement->expressions.push_back(expressions_.tuple());
        tokens_.expect(TokenKind::kVariableEnd);
        block.push_back(std::move(statement));
      } else if (token.kind == TokenKind::kBlockBegin) {
        tokens_.take();
        const std::string& name = tokens_.current().text;
        if (tokens_.current().kind == TokenKind::kName &&
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
    statement->line = tokens_.current().line;
    return statement;
  }

  StatementPtr statement() {
    const Token& name = tokens_.current();
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
      tokens_.take();
      tokens_.expect(TokenKind::kBlockEnd);
      return result;
    }
    fail(name.line, text("the statement \"{}\" is not supported", name.text));
  }

  void end_block(std::string_view name) {
    if (!tokens_.accept_name(name)) fail(tokens_.current().line, text("expected \"{}\"", name));
    tokens_.expect(TokenKind::kBlockEnd);
  }

  StatementPtr if_statement() {
    auto result = make_statement(Statement::Kind::kIf);
    tokens_.take();
    for (;;) {
      result->expressions.push_back(expressions_.tuple(Conditional::kNo));
      tokens_.expect(TokenKind::kBlockEnd);
      result->blocks.push_back(statements({"elif", "else", "endif"}));
      if (tokens_.accept_name("elif")) continue;
      if (tokens_.accept_name("else")) {
        tokens_.expect(TokenKind::kBlockEnd);
        result->blocks.push_back(statements({"endif"}));
      }
      end_block("endif");
      return result;
    }
  }

  StatementPtr for_statement() {
    auto result = make_statement(Statement::Kind::kFor);
    tokens_.take();
    result->targets.push_back(assignment_target(Attributes::kNo));
    if (!tokens_.accept_name("in"))
      fail(tokens_.current().line, text("expected \"in\" but found {}", tokens_.describe(tokens_.current())));
    result->expressions.push_back(expressions_.tuple(Conditional::kNo));
    result->expressions.push_back(tokens_.accept_name("if") ? expressions_.expression() : nullptr);
    if (tokens_.is_name("recursive")) fail(tokens_.current().line, text("a recursive loop is not supported"));
    tokens_.expect(TokenKind::kBlockEnd);
    ++loop_depth_;
    result->blocks.push_back(statements({"else", "endfor"}));
    --loop_depth_;
    if (tokens_.accept_name("else")) {
      tokens_.expect(TokenKind::kBlockEnd);
      result->blocks.push_back(statements({"endfor"}));
    }
    end_block("endfor");
    return result;
  }

  enum class Attributes { kNo, kYes };

  Target single_target(Attributes attributes) {
    Target target;
    if (tokens_.accept_operator("(")) {
      target = assignment_target(Attributes::kNo);
      tokens_.expect_operator(")");
      return target;
    }
    const int line = tokens_.current().line;
    target.name = tokens_.expect_name();
    static constexpr std::string_view kReserved[] = {"true", "false", "none", "True", "False", "None"};
    if (std::find(std::begin(kReserved), std::end(kReserved), target.name) != std::end(kReserved)) {
      fail(line, text("an assignment to \"{}\"", target.name));
    }
    if (attributes == Attributes::kYes && tokens_.accept_operator("."))
      target.attribute = tokens_.expect_name();
    return target;
  }

  Target assignment_target(Attributes attributes) {
    if (++block_depth_ > kMaxBlockDepth)
      fail(tokens_.current().line, text("an assignment is nested too deep"));
    Target first = single_target(attributes);
    if (tokens_.is_operator(",")) {
      Target all;
      all.parts.push_back(std::move(first));
      while (tokens_.accept_operator(",")) {
        if (tokens_.is_operator("=") || tokens_.is_name("in") || tokens_.is_operator(")")) break;
        all.parts.push_back(single_target(attributes));
      }
      first = std::move(all);
    }
    --block_depth_;
    return first;
  }

  StatementPtr set_statement() {
    auto result = make_statement(Statement::Kind::kSet);
    tokens_.take();
    result->targets.push_back(assignment_target(Attributes::kYes));
    if (tokens_.accept_operator("=")) {
      result->expressions.push_back(expressions_.tuple());
      tokens_.expect(TokenKind::kBlockEnd);
      return result;
    }
    result->kind = Statement::Kind::kSetBlock;
    ExpressionPtr filters;
    while (tokens_.accept_operator("|")) filters = expressions_.filter(std::move(filters));
    result->expressions.push_back(std::move(filters));
    tokens_.expect(TokenKind::kBlockEnd);
    result->blocks.push_back(statements({"endset"}));
    end_block("endset");
    return result;
  }

  StatementPtr macro_statement() {
    auto result = make_statement(Statement::Kind::kMacro);
    tokens_.take();
    result->macro.name = tokens_.expect_name();
    tokens_.expect_operator("(");
    while (!tokens_.is_operator(")")) {
      result->macro.parameters.push_back(tokens_.expect_name());
      if (tokens_.accept_operator("=")) {
        result->macro.defaults.push_back(expressions_.expression());
      } else if (!result->macro.defaults.empty()) {
        fail(tokens_.current().line, text("a parameter without default stands behind one with a default"));
      }
      if (!tokens_.accept_operator(",")) break;
    }
    tokens_.expect_operator(")");
    tokens_.expect(TokenKind::kBlockEnd);
    const int loops = std::exchange(loop_depth_, 0);
    result->macro.body = statements({"endmacro"});
    loop_depth_ = loops;
    tokens_.take();
    if (tokens_.current().kind == TokenKind::kName) tokens_.take();  // {% endmacro name %}
    tokens_.expect(TokenKind::kBlockEnd);
    return result;
  }

  StatementPtr with_statement() {
    auto result = make_statement(Statement::Kind::kWith);
    tokens_.take();
    while (tokens_.current().kind != TokenKind::kBlockEnd) {
      result->targets.push_back(assignment_target(Attributes::kNo));
      tokens_.expect_operator("=");
      result->expressions.push_back(expressions_.expression());
      if (!tokens_.accept_operator(",")) break;
    }
    tokens_.expect(TokenKind::kBlockEnd);
    result->blocks.push_back(statements({"endwith"}));
    end_block("endwith");
    return result;
  }

  // Hugging Face's mark of what the assistant says; it writes nothing itself.
  StatementPtr generation_statement() {
    auto result = make_statement(Statement::Kind::kScope);
    tokens_.take();
    tokens_.expect(TokenKind::kBlockEnd);
    result->blocks.push_back(statements({"endgeneration"}));
    end_block("endgeneration");
    return result;
  }

  TokenStream tokens_;
  ExpressionParser expressions_{tokens_};
  int block_depth_ = 0;
  int loop_depth_ = 0;
};

}  // namespace

Block parse(std::string_view source) { return Parser(lex(source)).run(); }

}  // namespace onggi::jinja

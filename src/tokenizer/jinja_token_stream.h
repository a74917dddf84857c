// The tokens of a template, read one by one.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/text.h"
#include "tokenizer/jinja_lexer.h"

namespace onggi::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

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

 private:
  std::vector<Token> tokens_;  // the last is kEnd, which take() does not pass
  size_t position_ = 0;
};

}  // namespace onggi::jinja

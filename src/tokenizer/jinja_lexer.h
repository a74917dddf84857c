// Jinja template text -> tokens. White space control as in Hugging Face's environment: trim_blocks and
// lstrip_blocks are on, a single newline at the end of the template is dropped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace onggi::jinja {

enum class TokenKind {
  kText,           // template data, as it is written out
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kName,
  kString,    // unescaped
  kInteger,   // text: digits, prefixes and underscores as written
  kFloat,     // likewise
  kOperator,  // text: the operator
  kEnd,
};

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 1;
};

// Throws InputError with the line of what is not Jinja. The last token is kEnd.
std::vector<Token> lex(std::string_view source);

// Throws the InputError of a template that cannot be read or rendered.
[[noreturn]] void fail(int line, const std::string& what);

}  // namespace onggi::jinja

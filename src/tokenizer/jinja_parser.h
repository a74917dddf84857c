// Jinja template text -> statements.
#pragma once

#include <string_view>

#include "tokenizer/jinja_ast.h"

namespace onggi::jinja {

// Throws InputError naming construct and line for what is not Jinja, or not supported.
Block parse(std::string_view source);

}  // namespace onggi::jinja

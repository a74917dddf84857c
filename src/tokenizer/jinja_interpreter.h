// Runs a parsed template.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tokenizer/jinja_ast.h"

namespace onggi::jinja {

// The text that the template writes, given its variables. Throws InputError with the line for what fails,
// what is not supported, and what takes too long.
std::string render(const Block& program, std::vector<std::pair<std::string, Value>> variables);

}  // namespace onggi::jinja

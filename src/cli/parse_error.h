// The command line library's complaints as sentences of our own, in the language in force.
#pragma once

#include <string>

namespace CLI {
class ParseError;
}

namespace onggi {

// The library tells what is wrong in English sentences alone; names and values are taken out of them.
// Sentences that are not known come back as they are.
std::string explain(const CLI::ParseError& error);

}  // namespace onggi

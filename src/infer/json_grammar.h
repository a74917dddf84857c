// JSON (RFC 8259) and a subset of JSON Schema as grammars over bytes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "infer/byte_grammar.h"

namespace onggi {

// The rules that every JSON grammar is made of. Texts are valid UTF-8. White space is what printers write: a
// space, or a new line with its indentation, and none before a colon; and numbers have at most 18 digits on
// each side of the point: models that lose their way repeat both without end.
class JsonRules {
 public:
  using Rule = ByteGrammar::Rule;
  explicit JsonRules(ByteGrammar& grammar);

  Rule space, value, object, array, string, number, integer, boolean, null;
  Rule character;        // one character within a string, written out or escaped
  Rule plain_character;  // one that is not escaped

  // "text", byte for byte.
  Rule literal(const std::string& text);
  // { members }; white space is taken care of. members may be empty.
  Rule braces(Rule members);

 private:
  void add_space();
  void add_characters();
  void add_numbers();
  void add_containers();

  ByteGrammar& grammar_;
};

// Throws InputError for a schema that is not supported (see json_constraint.h) or too large.
ByteGrammar::Rule add_schema(ByteGrammar& grammar, JsonRules& rules, const nlohmann::ordered_json& schema);

}  // namespace onggi

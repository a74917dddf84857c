// JSON mode: answers that are syntactically valid JSON, or follow a JSON schema, enforced while they are
// sampled, at the level of bytes.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "infer/constraint.h"
#include "tokenizer/tokenizer.h"

namespace onggi {

struct JsonConstraintOptions {
  // The answer is free up to and with this text ("</think>" where the prompt lets the model reason first);
  // empty: JSON from the first byte.
  std::string begins_after;
};

// {"type": "json_object"}: one JSON object. Nesting is limited to 64.
std::unique_ptr<TokenConstraint> make_json_constraint(Tokenizer tokenizer,
                                                      const JsonConstraintOptions& options = {});

// A schema (https://json-schema.org, draft 2020-12), of which these keywords are enforced: type (one or a
// list), properties, required, additionalProperties (true, false or a schema), items, minItems, maxItems,
// enum, const, anyOf, $ref to #/$defs/... and #/definitions/...; title, description, default, examples,
// $schema, $id are read over. Properties come in the order of the schema. Throws InputError that names any
// other keyword and its place.
std::unique_ptr<TokenConstraint> make_schema_constraint(Tokenizer tokenizer,
                                                        const nlohmann::ordered_json& schema,
                                                        const JsonConstraintOptions& options = {});

}  // namespace onggi

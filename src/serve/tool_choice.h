// Tools of a request, alike in OpenAI's and Anthropic's dialect once they are read.
#pragma once

#include <string>

#include "serve/fields.h"
#include "serve/query.h"

namespace onggi {

// Whether a chat may call tools, must, or must call a certain one.
struct ToolChoice {
  enum class Kind { kAuto, kNone, kRequired, kNamed } kind = Kind::kAuto;
  std::string name;  // kNamed
};

// Puts tools (as to_template_tools gives them back) into the conversation, with the beginning of the answer
// that commits the model to a call where one is asked for. Throws RequestError(400) where the model knows no
// tools, or the choice names one that is not there.
void use_tools(Json tools, const ToolChoice& choice, const Fields& fields, const ServedModel& model,
               Conversation& conversation);

}  // namespace onggi

// Anthropic's Messages API (https://docs.anthropic.com/en/api/messages): requests to queries, answers to
// bodies.
#pragma once

#include "serve/formatter.h"
#include "serve/query.h"

namespace onggi {

// POST /v1/messages. A last message of the assistant is the beginning of the answer, which goes on from it.
// Throws RequestError: 400 naming the field, 404 for another model.
Query parse_anthropic_messages(const Json& body, const ServedModel& model);
// POST /v1/messages/count_tokens: the same without max_tokens.
Query parse_anthropic_count(const Json& body, const ServedModel& model);

// prompt_tokens: what message_start tells before the answer begins.
std::unique_ptr<AnswerFormatter> anthropic_formatter(AnswerHead head, int64_t prompt_tokens);

// {"type": "error", "error": {"type", "message"}}; a field is named in the message, as Anthropic does.
std::string anthropic_error(int status, const std::string& message);

}  // namespace onggi

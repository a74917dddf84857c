// Onggi's own simple API: POST /chat {"message": "..."} -> {"response": "..."}.
#pragma once

#include "serve/formatter.h"
#include "serve/query.h"

namespace onggi {

// Fields: message (required); history (array of {role, content}), system, model, stream, think, format
// ("json" or a schema), max_tokens, temperature and the other sampling values, stop, seed. Throws
// RequestError.
Query parse_chat(const Json& body, const ServedModel& model);

// Whole: {"response", "thinking"?, "model", "finish_reason", "usage", "duration_s", "tokens_per_s"}. Streams
// are server-sent events: data: {"response": "piece"} ..., last the same without text but with the rest and
// "done": true, then data: [DONE].
std::unique_ptr<AnswerFormatter> chat_formatter(AnswerHead head);

// {"error": "text", "field": "message"}
std::string chat_error(const std::string& message, const std::string& field = {});

}  // namespace onggi

// OpenAI's API (https://platform.openai.com/docs/api-reference): requests to queries, answers to bodies.
#pragma once

#include "serve/formatter.h"
#include "serve/query.h"

namespace onggi {

// POST /v1/chat/completions. Throws RequestError: 400 naming the field, 404 for another model.
Query parse_openai_chat(const Json& body, const ServedModel& model);
// POST /v1/completions.
Query parse_openai_completion(const Json& body, const ServedModel& model);

// stream_options.include_usage of a request.
enum class StreamUsage { kNo, kYes };
StreamUsage openai_stream_usage(const Json& body);

std::unique_ptr<AnswerFormatter> openai_chat_formatter(AnswerHead head, const Query& query, StreamUsage usage,
                                                       Tokenizer tokenizer);
std::unique_ptr<AnswerFormatter> openai_completion_formatter(AnswerHead head, const Query& query,
                                                             StreamUsage usage, Tokenizer tokenizer);

Json openai_model(const ServedModel& model, const std::string& name);
Json openai_models(const ServedModel& model);  // GET /v1/models

// {"error": {"message", "type", "param", "code"}}; field "" is null.
std::string openai_error(int status, const std::string& message, const std::string& field = {});

}  // namespace onggi

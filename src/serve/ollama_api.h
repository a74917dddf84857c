// Ollama's API (https://github.com/ollama/ollama/blob/main/docs/api.md): requests to queries, answers to
// bodies.
#pragma once

#include "serve/formatter.h"
#include "serve/query.h"

namespace onggi {

// The version that clients are told; some of them turn features on by it.
inline constexpr const char* kOllamaVersion = "0.12.0";

// A request may ask for an answer, or only to load or unload the model (an empty prompt).
struct OllamaRequest {
  enum class Kind { kAnswer, kLoad, kUnload } kind = Kind::kAnswer;
  Query query;
};

// POST /api/chat and /api/generate. Throw RequestError: 400 naming the field, 404 for another model.
OllamaRequest parse_ollama_chat(const Json& body, const ServedModel& model);
OllamaRequest parse_ollama_generate(const Json& body, const ServedModel& model);

std::unique_ptr<AnswerFormatter> ollama_chat_formatter(AnswerHead head, const Query& query,
                                                       Tokenizer tokenizer);
// prompt: the ids that the "context" of the last object begins with; empty for raw prompts, which have none.
std::unique_ptr<AnswerFormatter> ollama_generate_formatter(AnswerHead head, const Query& query,
                                                           Tokenizer tokenizer, std::vector<int32_t> prompt);

// The answers to kLoad and kUnload.
enum class OllamaEndpoint { kChat, kGenerate };
Json ollama_load_answer(const AnswerHead& head, OllamaEndpoint endpoint, OllamaRequest::Kind kind);

Json ollama_tags(const ServedModel& model);                      // GET /api/tags
Json ollama_running(const ServedModel& model, uint64_t memory);  // GET /api/ps; memory in bytes
// POST /api/show.
Json ollama_show(const Json& body, const ServedModel& model);

std::string ollama_error(const std::string& message);  // {"error": "text"}

}  // namespace onggi

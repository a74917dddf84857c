// Embeddings of texts, in OpenAI's and Ollama's dialects: the hidden state of a text's last token after the
// final norm, scaled to length 1.
#pragma once

#include <memory>
#include <vector>

#include "serve/answering.h"
#include "serve/generator.h"

namespace onggi {

struct EmbeddingQuery {
  std::vector<std::vector<int32_t>> inputs;  // token ids, at least one each
  int64_t dimensions = 0;                    // leading ones that are kept; 0: all
};

struct Embeddings {
  std::vector<std::vector<float>> vectors;  // by input, each of length 1
  int64_t prompt_tokens = 0;                // of all inputs
};

// What the engine is asked for, and who waits.
struct EmbeddingRun {
  Engine& engine;
  std::chrono::seconds timeout;
  const HttpRequest& request;
  RequestRecorder& recorder;
};
// Throws RequestError: 400 where an input is longer than the context, 503 when the queue is full, 504 when
// the time is over, 499 when the client went away.
Embeddings embed(const EmbeddingQuery& query, const EmbeddingRun& run);

// POST /v1/embeddings: a text, texts, token ids, or arrays of ids. Throw RequestError 400 naming the field,
// 404 for another model.
EmbeddingQuery parse_openai_embeddings(const Json& body, const LoadedModel& model, const ServedModel& served);
// The answer, with numbers or (encoding_format "base64") little-endian f32.
Json openai_embeddings(const Json& body, const std::string& model, const Embeddings& embeddings);

// POST /api/embed (an array of vectors) and the older /api/embeddings (one). No text, no inputs: it loads the
// model. Texts that are longer than the context are cut where "truncate" allows it, as it does by default.
EmbeddingQuery parse_ollama_embed(const Json& body, const LoadedModel& model, const ServedModel& served);
EmbeddingQuery parse_ollama_embeddings(const Json& body, const LoadedModel& model, const ServedModel& served);
Json ollama_embed(const std::string& model, const Embeddings& embeddings, double seconds);
Json ollama_embeddings(const Embeddings& embeddings);

// v / |v|, after all but the first `dimensions` (0: none) were left out. A vector of zeros stays one.
void normalize(std::vector<float>& vector, int64_t dimensions);

}  // namespace onggi

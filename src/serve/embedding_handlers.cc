// Embeddings over OpenAI's and Ollama's API.
#include <string>

#include "serve/call.h"
#include "serve/embeddings.h"
#include "serve/handlers.h"

namespace onggi {

namespace {

using ParseEmbeddings = EmbeddingQuery (*)(const Json&, const LoadedModel&, const ServedModel&);
Embeddings embed_for(const Call& call, const LoadedService& loaded, const Json& body, ParseEmbeddings parse) {
  const EmbeddingQuery query = parse(body, loaded.model, loaded.served);
  return embed(query, {*loaded.engine, loaded.generator->request_timeout(), call.request, *call.recorder});
}

}  // namespace

HttpResponse post_openai_embeddings(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Embeddings embeddings = embed_for(call, *loaded, body, parse_openai_embeddings);
  return json_response(openai_embeddings(body, named_model(body, *loaded), embeddings));
}

HttpResponse post_ollama_embed(const Call& call) {
  const Stopwatch watch;
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Embeddings embeddings = embed_for(call, *loaded, body, parse_ollama_embed);
  return json_response(ollama_embed(named_model(body, *loaded), embeddings, watch.seconds()));
}

HttpResponse post_ollama_embeddings(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  return json_response(ollama_embeddings(embed_for(call, *loaded, body, parse_ollama_embeddings)));
}

}  // namespace onggi

// One function per endpoint; routes.cc has the list of their paths. They throw RequestError for what a client
// did wrong.
#pragma once

#include "serve/call.h"

namespace onggi {

// Answers in the chat, OpenAI and Anthropic APIs.
HttpResponse post_chat(const Call& call);
HttpResponse post_openai_chat(const Call& call);
HttpResponse post_openai_completion(const Call& call);
HttpResponse post_anthropic_messages(const Call& call);
HttpResponse post_anthropic_count(const Call& call);
HttpResponse get_openai_models(const Call& call);
HttpResponse get_openai_model(const Call& call);

// Ollama's API, but for embeddings.
HttpResponse post_ollama_chat(const Call& call);
HttpResponse post_ollama_generate(const Call& call);
HttpResponse get_ollama_tags(const Call& call);
HttpResponse get_ollama_ps(const Call& call);
HttpResponse post_ollama_show(const Call& call);
HttpResponse get_ollama_version(const Call& call);
HttpResponse post_ollama_pull(const Call& call);
HttpResponse refuse_ollama_change(const Call& call);
HttpResponse delete_ollama_model(const Call& call);
HttpResponse copy_ollama_model(const Call& call);
HttpResponse get_ollama_blob(const Call& call);

// Embeddings over OpenAI's and Ollama's API.
HttpResponse post_openai_embeddings(const Call& call);
HttpResponse post_ollama_embed(const Call& call);
HttpResponse post_ollama_embeddings(const Call& call);

// What people and probes look at: health, metrics, the dashboard.
HttpResponse get_root(const Call& call);
HttpResponse get_health(const Call& call);
HttpResponse get_metrics(const Call& call);
HttpResponse get_dashboard_data(const Call& call);
HttpResponse get_dashboard(const Call& call);

}  // namespace onggi

// Ollama's API, but for embeddings.
#include <string>

#include "base/text.h"
#include "serve/call.h"
#include "serve/handlers.h"
#include "serve/ollama_api.h"
#include "serve/request_error.h"
#include "serve/sampling_fields.h"

namespace onggi {
namespace {

// `field`, or "name" as older clients say, calls the model that is here.
void require_served(const Fields& fields, const char* field, const ServedModel& served) {
  const auto old_name = fields.string("name");
  const std::string name =
      old_name && fields.find(field) == nullptr ? *old_name : fields.require_string(field);
  if (!is_served(served, name)) fail_unknown_model(name, served);
}

}  // namespace

HttpResponse post_ollama_chat(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const OllamaRequest request = parse_ollama_chat(body, loaded->served);
  AnswerHead head = make_head("", named_model(body, *loaded));
  if (request.kind != OllamaRequest::Kind::kAnswer)
    return json_response(ollama_load_answer(head, OllamaEndpoint::kChat, request.kind));
  return answer(call, loaded, request.query, [&](const auto&) {
    return ollama_chat_formatter(std::move(head), request.query, loaded->model.tokenizer);
  });
}

HttpResponse post_ollama_generate(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const OllamaRequest request = parse_ollama_generate(body, loaded->served);
  AnswerHead head = make_head("", named_model(body, *loaded));
  if (request.kind != OllamaRequest::Kind::kAnswer)
    return json_response(ollama_load_answer(head, OllamaEndpoint::kGenerate, request.kind));
  const bool raw = !std::holds_alternative<Conversation>(request.query.prompt);
  return answer(call, loaded, request.query, [&](const std::vector<int32_t>& prompt) {
    return ollama_generate_formatter(std::move(head), request.query, loaded->model.tokenizer,
                                     raw ? std::vector<int32_t>() : prompt);
  });
}

HttpResponse get_ollama_tags(const Call& call) {
  const auto loaded = call.state.loaded();
  if (!loaded) return json_response({{"models", Json::array()}});
  return json_response(ollama_tags(loaded->served));
}

HttpResponse get_ollama_ps(const Call& call) {
  const auto loaded = call.state.loaded();
  if (!loaded) return json_response({{"models", Json::array()}});
  return json_response(
      ollama_running(loaded->served, loaded->served.size_bytes + loaded->engine->stats().kv_bytes));
}

HttpResponse post_ollama_show(const Call& call) {
  return json_response(ollama_show(parse_request_body(call.request.body), require_model(call)->served));
}

HttpResponse get_ollama_version(const Call&) { return json_response({{"version", kOllamaVersion}}); }

// Clients pull before they ask; what is here needs no pulling.
HttpResponse post_ollama_pull(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Fields fields(body);
  require_served(fields, "model", loaded->served);
  HttpResponse response = json_response({{"status", "success"}});
  if (fields.boolean("stream").value_or(true)) {
    response.content_type = "application/x-ndjson";
    response.body += "\n";
  }
  return response;
}

HttpResponse refuse_ollama_change(const Call&) {
  throw RequestError(501, "",
                     text("this service serves one model and cannot create, copy, push or delete models; "
                          "use onggi or Ollama for that"));
}

namespace {

// Copies and deletions of models that are not here fail as they do with Ollama.
HttpResponse refuse_ollama_change_of(const Call& call, const char* field) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  require_served(Fields(body), field, loaded->served);
  return refuse_ollama_change(call);
}

}  // namespace

HttpResponse delete_ollama_model(const Call& call) { return refuse_ollama_change_of(call, "model"); }
HttpResponse copy_ollama_model(const Call& call) { return refuse_ollama_change_of(call, "source"); }

// Clients ask whether a blob is here before they send it.
HttpResponse get_ollama_blob(const Call&) {
  throw RequestError(404, "", text("there is no such blob; this service keeps none"));
}

}  // namespace onggi

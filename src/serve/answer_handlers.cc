// Answers in the chat, OpenAI and Anthropic APIs.
#include <string>

#include "serve/anthropic_api.h"
#include "serve/call.h"
#include "serve/chat_api.h"
#include "serve/handlers.h"
#include "serve/openai_api.h"
#include "serve/request_error.h"
#include "serve/sampling_fields.h"
#include "serve/served_model.h"

namespace onggi {

HttpResponse post_chat(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Query query = parse_chat(body, loaded->served);
  return answer(call, loaded, query, [&](const auto&) {
    return chat_formatter(make_head("chat-", loaded->served.names.front()));
  });
}

HttpResponse post_openai_chat(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Query query = parse_openai_chat(body, loaded->served);
  const StreamUsage usage = openai_stream_usage(body);
  return answer(call, loaded, query, [&](const auto&) {
    return openai_chat_formatter(make_head("chatcmpl-", named_model(body, *loaded)), query, usage,
                                 loaded->model.tokenizer);
  });
}

HttpResponse post_openai_completion(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Query query = parse_openai_completion(body, loaded->served);
  const StreamUsage usage = openai_stream_usage(body);
  return answer(call, loaded, query, [&](const auto&) {
    return openai_completion_formatter(make_head("cmpl-", named_model(body, *loaded)), query, usage,
                                       loaded->model.tokenizer);
  });
}

HttpResponse post_anthropic_messages(const Call& call) {
  const auto loaded = require_model(call);
  const Json body = parse_request_body(call.request.body);
  const Query query = parse_anthropic_messages(body, loaded->served);
  return answer(call, loaded, query, [&](const std::vector<int32_t>& prompt) {
    return anthropic_formatter(make_head("msg_", named_model(body, *loaded)),
                               static_cast<int64_t>(prompt.size()));
  });
}

HttpResponse post_anthropic_count(const Call& call) {
  const auto loaded = require_model(call);
  const Query query = parse_anthropic_count(parse_request_body(call.request.body), loaded->served);
  return json_response({{"input_tokens", prepare_prompt(loaded->model, query).ids.size()}});
}

HttpResponse get_openai_models(const Call& call) {
  return json_response(openai_models(require_model(call)->served));
}

HttpResponse get_openai_model(const Call& call) {
  const auto loaded = require_model(call);
  const std::string name = call.request.path.substr(std::string_view("/v1/models/").size());
  if (!is_served(loaded->served, name)) fail_unknown_model(name, loaded->served);
  return json_response(openai_model(loaded->served, name));
}

}  // namespace onggi

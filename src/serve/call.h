// A request on its way to an answer, and what the handlers of all APIs share.
#pragma once

#include <memory>
#include <string>

#include "serve/routes.h"

namespace onggi {

// What a handler is given.
struct Call {
  ServiceState& state;
  Listener listener;
  const HttpRequest& request;
  std::shared_ptr<RequestRecorder> recorder;
};

HttpResponse json_response(const Json& value, int status = 200);

// The model in service; RequestError 503 while it loads.
std::shared_ptr<LoadedService> require_model(const Call& call);

// What an answer begins with: an id of its own after `prefix`, the time, the name of the model.
AnswerHead make_head(const char* prefix, std::string model);

// The name by which a request's body calls the model, or the model's first name.
std::string named_model(const Json& body, const LoadedService& loaded);

// Answers a query, whole or as a stream. The engine and the model live as long as the answer.
HttpResponse answer(const Call& call, const std::shared_ptr<LoadedService>& loaded, const Query& query,
                    const MakeFormatter& make_formatter);

}  // namespace onggi

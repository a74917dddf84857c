#include "serve/call.h"

#include <ctime>
#include <random>

#include "base/text.h"
#include "serve/fields.h"
#include "serve/request_error.h"

namespace onggi {
namespace {

std::string random_id(const char* prefix) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{}{:016x}", prefix, random());
}

}  // namespace

HttpResponse json_response(const Json& value, int status) {
  HttpResponse response;
  response.status = status;
  response.body = dump(value);
  return response;
}

std::shared_ptr<LoadedService> require_model(const Call& call) {
  auto loaded = call.state.loaded();
  if (!loaded) throw RequestError(503, "", text("the model is still loading; try again in a moment"));
  return loaded;
}

AnswerHead make_head(const char* prefix, std::string model) {
  return {random_id(prefix), static_cast<int64_t>(std::time(nullptr)), std::move(model), utc_now_rfc3339};
}

std::string named_model(const Json& body, const LoadedService& loaded) {
  return Fields(body).string("model").value_or(loaded.served.names.front());
}

HttpResponse answer(const Call& call, const std::shared_ptr<LoadedService>& loaded, const Query& query,
                    const MakeFormatter& make_formatter) {
  HttpResponse response =
      answer_query(*loaded->generator, query, call.request, call.recorder, make_formatter);
  if (response.stream)
    response.stream = [loaded, stream = std::move(response.stream)](const StreamWriter& write) {
      stream(write);
    };
  return response;
}

}  // namespace onggi

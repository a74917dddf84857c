#include <cmath>

#include "base/text.h"
#include "serve/messages.h"
#include "serve/ollama_api.h"
#include "serve/request_error.h"
#include "serve/sampling_fields.h"

namespace onggi {
namespace {

// Options that steer Ollama's runner; nothing here corresponds to them, and its clients send them as they
// are.
void read_options(const Fields& body, const ServedModel& model, Query& query) {
  query.max_new_tokens = model.max_new_tokens;
  const Json* given = body.object("options");
  if (given == nullptr) return;
  const Fields options(*given, "options");
  read_sampling(options, query.sampling);
  query.stop = read_stop(options);
  if (const auto predict = options.integer("num_predict", {-2, 1e9})) {
    if (*predict == 0)
      options.fail("num_predict", text("\"options.num_predict\" must be at least 1, or -1 for no limit"));
    query.max_new_tokens = *predict > 0 ? predict : std::nullopt;
  }
  if (const auto context = options.integer("num_ctx", {1, 1e9}))
    if (*context < model.context_length) query.context_limit = context;
}

void read_format(const Fields& fields, Query& query) {
  const Json* format = fields.find("format");
  if (format == nullptr) return;
  if (format->is_object()) {
    query.format = AnswerFormat::kJsonSchema;
    query.schema = *format;
    return;
  }
  if (format->is_string() && format->get<std::string>() == "json") {
    query.format = AnswerFormat::kJsonObject;
    return;
  }
  if (format->is_string() && format->get<std::string>().empty()) return;
  fields.fail("format", text("\"format\" must be \"json\" or a JSON schema"));
}

std::optional<bool> read_think(const Fields& fields, const ServedModel& model) {
  const Json* think = fields.find("think");
  if (think == nullptr) return std::nullopt;
  std::optional<bool> result;
  if (think->is_boolean()) result = think->get<bool>();
  if (think->is_string())
    for (const char* level : {"low", "medium", "high", "max"})
      if (think->get<std::string>() == level) result = true;
  if (!result)
    fields.fail("think", text("\"think\" must be true, false, \"low\", \"medium\", \"high\" or \"max\""));
  if (*result && model.thinking == ServedModel::Capability::kNo)
    fields.fail("think", text("\"{}\" does not support thinking", model.names.front()));
  return result;
}

// keep_alive: seconds, or a duration such as "5m". The model of this service stays loaded whatever it says; 0
// with an empty prompt is how clients unload, and gets the answer that they wait for.
bool asks_to_unload(const Fields& fields) {
  const Json* keep = fields.find("keep_alive");
  if (keep == nullptr) return false;
  if (keep->is_number()) return keep->get<double>() == 0;
  if (!keep->is_string())
    fields.fail("keep_alive", text("\"keep_alive\" must be a number or a duration such as \"5m\""));
  const std::string duration = keep->get<std::string>();
  return !duration.empty() && duration.find_first_of("123456789") == std::string::npos;
}

void read_common(const Fields& fields, const ServedModel& model, Query& query) {
  check_model(fields, model);
  query.sampling = model.sampling;
  read_options(fields, model, query);
  read_format(fields, query);
  if (fields.boolean("stream").value_or(true)) query.delivery = Delivery::kStreamed;
  if (fields.boolean("logprobs").value_or(false)) query.logprobs = Query::Logprobs::kYes;
  query.top_logprobs = fields.integer("top_logprobs", {0, 20}).value_or(0);
}

OllamaRequest load_request(const Fields& fields, Query query) {
  const auto kind = asks_to_unload(fields) ? OllamaRequest::Kind::kUnload : OllamaRequest::Kind::kLoad;
  return {kind, std::move(query)};
}

std::vector<int32_t> read_context(const Fields& fields) {
  std::vector<int32_t> ids;
  const Json* context = fields.array("context");
  if (context == nullptr) return ids;
  for (const Json& id : *context) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
      fields.fail("context", text("\"context\" must be the array of token ids of an earlier answer"));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void refuse_unsupported(const Fields& fields, const ServedModel& model) {
  if (const Json* images = fields.array("images"); images != nullptr && !images->empty())
    fields.fail("images", text("\"{}\" does not support images", model.names.front()));
  if (const auto suffix = fields.string("suffix"); suffix && !suffix->empty())
    fields.fail("suffix", text("\"{}\" does not support insert", model.names.front()));
  if (const auto own = fields.string("template"); own && !own->empty())
    fields.fail("template", text("\"template\" is not supported: the model's own chat template is used; send "
                                 "\"raw\": true with a prompt that is already formatted"));
}

}  // namespace

OllamaRequest parse_ollama_chat(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  Query query;
  read_common(fields, model, query);
  Conversation conversation;
  conversation.enable_thinking = read_think(fields, model);
  const Json* messages = fields.array("messages");
  if (messages == nullptr || messages->empty()) return load_request(fields, std::move(query));
  conversation.messages = to_template_messages(*messages, "messages");
  if (const Json* tools = fields.array("tools"); tools != nullptr && !tools->empty()) {
    if (model.tools == ServedModel::Capability::kNo)
      fields.fail("tools", text("\"{}\" does not support tools", model.names.front()));
    conversation.tools = to_template_tools(*tools, "tools");
  }
  query.prompt = std::move(conversation);
  return {OllamaRequest::Kind::kAnswer, std::move(query)};
}

OllamaRequest parse_ollama_generate(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  Query query;
  read_common(fields, model, query);
  refuse_unsupported(fields, model);
  const auto think = read_think(fields, model);
  const std::string prompt = fields.string("prompt").value_or("");
  if (prompt.empty()) return load_request(fields, std::move(query));
  if (fields.boolean("raw").value_or(false)) {
    query.structure = Query::Structure::kPlain;
    query.prompt = RawPrompt{prompt};
    return {OllamaRequest::Kind::kAnswer, std::move(query)};
  }
  Conversation conversation;
  conversation.enable_thinking = think;
  conversation.prefix_ids = read_context(fields);
  if (const auto system = fields.string("system"); system && !system->empty())
    conversation.messages.push_back({{"role", "system"}, {"content", *system}});
  conversation.messages.push_back({{"role", "user"}, {"content", prompt}});
  query.prompt = std::move(conversation);
  return {OllamaRequest::Kind::kAnswer, std::move(query)};
}

}  // namespace onggi

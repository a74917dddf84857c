#include <charconv>
#include <cmath>

#include "base/text.h"
#include "serve/messages.h"
#include "serve/openai_api.h"
#include "serve/request_error.h"
#include "serve/sampling_fields.h"
#include "serve/tool_choice.h"

namespace onggi {
namespace {

constexpr int64_t kMaxChoices = 16;

void read_logit_bias(const Fields& fields, SamplingParams& sampling) {
  const Json* bias = fields.object("logit_bias");
  if (bias == nullptr) return;
  for (const auto& [key, value] : bias->items()) {
    int32_t id = 0;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || !value.is_number())
      fields.fail("logit_bias", text("\"logit_bias\" must map token ids to numbers"));
    const double amount = value.get<double>();
    if (std::abs(amount) > 100)
      fields.fail("logit_bias", text("\"logit_bias\" must be between -100 and 100, not {}", amount));
    sampling.logit_bias.emplace_back(id, static_cast<float>(amount));
  }
}

void read_response_format(const Fields& fields, Query& query) {
  const Json* given = fields.object("response_format");
  if (given == nullptr) return;
  const Fields format(*given, "response_format");
  const std::string type = format.require_string("type");
  if (type == "text") return;
  if (type == "json_object") {
    query.format = AnswerFormat::kJsonObject;
    return;
  }
  if (type != "json_schema")
    format.fail("type",
                text("\"response_format.type\" must be text, json_object or json_schema, not \"{}\"", type));
  const Json* wrapper = format.object("json_schema");
  if (wrapper == nullptr) format.fail("json_schema", text("\"response_format.json_schema\" is required"));
  const Json* schema = Fields(*wrapper, "response_format.json_schema").object("schema");
  if (schema == nullptr)
    format.fail("json_schema", text("\"response_format.json_schema.schema\" is required"));
  query.format = AnswerFormat::kJsonSchema;
  query.schema = *schema;
}

ToolChoice read_tool_choice(const Fields& fields) {
  const Json* choice = fields.find("tool_choice");
  if (choice == nullptr) return {};
  if (choice->is_string()) {
    const std::string word = choice->get<std::string>();
    if (word == "auto") return {};
    if (word == "none") return {ToolChoice::Kind::kNone, {}};
    if (word == "required") return {ToolChoice::Kind::kRequired, {}};
  } else if (choice->is_object()) {
    const Fields named(*choice, "tool_choice");
    if (const Json* function = named.object("function"))
      return {ToolChoice::Kind::kNamed, Fields(*function, "tool_choice.function").require_string("name")};
  }
  fields.fail("tool_choice", text("\"tool_choice\" must be auto, none, required, or {}",
                                  R"({"type": "function", "function": {"name": ...}})"));
}

void read_tools(const Fields& fields, const ServedModel& model, Query& query, Conversation& conversation) {
  if (fields.find("functions") != nullptr)
    fields.fail("functions", text("\"functions\" is no longer supported; use \"tools\""));
  const ToolChoice choice = read_tool_choice(fields);
  const Json* tools = fields.array("tools");
  if (tools == nullptr || tools->empty()) {
    if (choice.kind == ToolChoice::Kind::kRequired || choice.kind == ToolChoice::Kind::kNamed)
      fields.fail("tool_choice", text("\"tool_choice\" asks for a call, but there are no \"tools\""));
    return;
  }
  use_tools(to_template_tools(*tools, "tools"), choice, fields, model, conversation);
  if (fields.boolean("parallel_tool_calls") == false) query.max_tool_calls = 1;
}

void read_thinking(const Fields& fields, Conversation& conversation) {
  if (const auto effort = fields.string("reasoning_effort")) {
    for (const char* known : {"none", "minimal", "low", "medium", "high", "xhigh", "max"})
      if (*effort == known) conversation.enable_thinking = *effort != "none";
    if (!conversation.enable_thinking)
      fields.fail(
          "reasoning_effort",
          text("\"reasoning_effort\" must be none, minimal, low, medium or high, not \"{}\"", *effort));
  }
  const Json* variables = fields.object("chat_template_kwargs");
  if (variables == nullptr) return;
  const auto thinking = Fields(*variables, "chat_template_kwargs").boolean("enable_thinking");
  if (thinking) conversation.enable_thinking = thinking;
  conversation.template_variables = *variables;
  conversation.template_variables.erase("enable_thinking");
}

void read_common(const Fields& fields, const ServedModel& model, Query& query) {
  read_sampling(fields, query.sampling);
  read_logit_bias(fields, query.sampling);
  query.stop = read_stop(fields);
  query.choices = fields.integer("n", {1, kMaxChoices}).value_or(1);
  if (fields.boolean("stream").value_or(false)) query.delivery = Delivery::kStreamed;
  query.max_new_tokens = model.max_new_tokens;
  for (const char* name : {"max_tokens", "max_completion_tokens"})
    if (const auto limit = fields.integer(name, {1, 1e9})) query.max_new_tokens = limit;
}

}  // namespace

Query parse_openai_chat(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  check_model(fields, model);
  Query query;
  query.sampling = model.sampling;
  read_common(fields, model, query);
  if (fields.boolean("logprobs").value_or(false)) query.logprobs = Query::Logprobs::kYes;
  query.top_logprobs = fields.integer("top_logprobs", {0, 20}).value_or(0);
  if (query.top_logprobs > 0 && query.logprobs == Query::Logprobs::kNo)
    fields.fail("top_logprobs", text("\"top_logprobs\" needs \"logprobs\": true"));
  read_response_format(fields, query);

  const Json* messages = fields.array("messages");
  if (messages == nullptr || messages->empty())
    fields.fail("messages", text("\"messages\" is required and must hold at least one message"));
  Conversation conversation;
  conversation.messages = to_template_messages(*messages, "messages");
  read_thinking(fields, conversation);
  read_tools(fields, model, query, conversation);
  query.prompt = std::move(conversation);
  return query;
}

namespace {

std::optional<PromptIds> read_ids(const Json& array) {
  PromptIds prompt;
  for (const Json& id : array) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
      return std::nullopt;
    prompt.ids.push_back(id.get<int32_t>());
  }
  return prompt.ids.empty() ? std::nullopt : std::optional(std::move(prompt));
}

std::variant<Conversation, RawPrompt, PromptIds> read_prompt(const Fields& fields) {
  const Json* prompt = fields.find("prompt");
  if (prompt != nullptr && prompt->is_array() && prompt->size() == 1 && !prompt->front().is_number())
    prompt = &prompt->front();
  if (prompt != nullptr && prompt->is_string()) return RawPrompt{prompt->get<std::string>()};
  if (prompt != nullptr && prompt->is_array())
    if (auto ids = read_ids(*prompt)) return std::move(*ids);
  fields.fail("prompt", text("\"prompt\" is required and must be one string or one array of token ids; send "
                             "several prompts as several requests"));
}

}  // namespace

Query parse_openai_completion(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  check_model(fields, model);
  Query query;
  query.sampling = model.sampling;
  query.structure = Query::Structure::kPlain;
  read_common(fields, model, query);
  query.prompt = read_prompt(fields);
  if (fields.find("logprobs") != nullptr) {
    query.logprobs = Query::Logprobs::kYes;
    query.top_logprobs = *fields.integer("logprobs", {0, 20});
  }
  if (fields.boolean("echo").value_or(false)) fields.fail("echo", text("\"echo\" is not supported"));
  if (const auto suffix = fields.string("suffix"); suffix && !suffix->empty())
    fields.fail("suffix", text("\"{}\" does not support insert", model.names.front()));
  if (fields.integer("best_of", {1, kMaxChoices}).value_or(1) > query.choices)
    fields.fail("best_of", text("\"best_of\" is not supported; use \"n\""));
  return query;
}

StreamUsage openai_stream_usage(const Json& body) {
  const Json* options = Fields(body).object("stream_options");
  if (options == nullptr) return StreamUsage::kNo;
  return Fields(*options, "stream_options").boolean("include_usage").value_or(false) ? StreamUsage::kYes
                                                                                     : StreamUsage::kNo;
}

}  // namespace onggi

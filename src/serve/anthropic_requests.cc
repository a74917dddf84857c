#include "base/text.h"
#include "serve/anthropic_api.h"
#include "serve/messages.h"
#include "serve/request_error.h"
#include "serve/sampling_fields.h"
#include "serve/tool_choice.h"

namespace onggi {
namespace {

// A string, or an array of text blocks.
std::string text_of(const Fields& fields, const char* name) {
  const Json* value = fields.find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array())
    fields.fail(name, text("\"{}\" must be a string or an array of text blocks", fields.path_of(name)));
  std::string result;
  for (size_t i = 0; i < value->size(); ++i) {
    const Fields block((*value)[i], fmt::format("{}[{}]", fields.path_of(name), i));
    const std::string type = block.require_string("type");
    if (type != "text")
      block.fail("type",
                 text("\"{}\" is \"{}\", but this model reads text only", block.path_of("type"), type));
    result += block.require_string("text");
  }
  return result;
}

// What the blocks of one message become: the results of tools come first, as messages of their own.
class MessageReader {
 public:
  MessageReader(const Fields& message, std::string role) : message_(message), role_(std::move(role)) {}

  void read(Json& messages);

 private:
  void read_block(const Fields& block, Json& messages);
  void add_call(const Fields& block);

  const Fields& message_;
  const std::string role_;
  std::string text_, reasoning_;
  Json calls_ = Json::array();
  bool has_result_ = false;
};

void MessageReader::add_call(const Fields& block) {
  const Json* input = block.object("input");
  calls_.push_back({{"type", "function"},
                    {"id", block.require_string("id")},
                    {"function",
                     {{"name", block.require_string("name")},
                      {"arguments", input == nullptr ? Json::object() : *input}}}});
}

void MessageReader::read_block(const Fields& block, Json& messages) {
  const std::string type = block.require_string("type");
  const bool is_assistant = role_ == "assistant";
  if (type == "text") {
    text_ += block.require_string("text");
  } else if (type == "thinking" && is_assistant) {
    reasoning_ += block.require_string("thinking");
  } else if (type == "redacted_thinking" && is_assistant) {
    // Nothing that a model could read.
  } else if (type == "tool_use" && is_assistant) {
    add_call(block);
  } else if (type == "tool_result" && !is_assistant) {
    has_result_ = true;
    messages.push_back({{"role", "tool"},
                        {"content", text_of(block, "content")},
                        {"tool_call_id", block.require_string("tool_use_id")}});
  } else {
    block.fail("type", text("\"{}\" is \"{}\", which a message of the {} cannot hold here",
                            block.path_of("type"), type, role_));
  }
}

void MessageReader::read(Json& messages) {
  const Json* content = message_.find("content");
  if (content == nullptr) message_.fail("content", text("\"{}\" is required", message_.path_of("content")));
  if (content->is_string()) {
    text_ = content->get<std::string>();
  } else if (content->is_array()) {
    for (size_t i = 0; i < content->size(); ++i)
      read_block(Fields((*content)[i], fmt::format("{}[{}]", message_.path_of("content"), i)), messages);
  } else {
    message_.fail("content",
                  text("\"{}\" must be a string or an array of blocks", message_.path_of("content")));
  }
  if (has_result_ && text_.empty()) return;
  Json result = {{"role", role_}, {"content", text_}};
  if (!reasoning_.empty()) result["reasoning_content"] = reasoning_;
  if (!calls_.empty()) result["tool_calls"] = calls_;
  messages.push_back(std::move(result));
}

Json read_messages(const Fields& fields) {
  Json messages = Json::array();
  if (const std::string system = text_of(fields, "system"); !system.empty())
    messages.push_back({{"role", "system"}, {"content", system}});
  const Json* given = fields.array("messages");
  if (given == nullptr || given->empty())
    fields.fail("messages", text("\"messages\" is required and must hold at least one message"));
  for (size_t i = 0; i < given->size(); ++i) {
    const Fields message((*given)[i], fmt::format("messages[{}]", i));
    std::string role = message.require_string("role");
    if (role != "user" && role != "assistant")
      message.fail("role",
                   text("\"{}\" must be user or assistant, not \"{}\"", message.path_of("role"), role));
    MessageReader(message, std::move(role)).read(messages);
  }
  return messages;
}

// Anthropic's {"name", "description", "input_schema"} as the functions that chat templates know.
Json read_tools(const Json& given) {
  Json tools = Json::array();
  for (size_t i = 0; i < given.size(); ++i) {
    const Fields tool(given[i], fmt::format("tools[{}]", i));
    const auto type = tool.string("type");
    if (type && *type != "custom")
      tool.fail("type", text("\"{}\" is \"{}\", a tool that Anthropic's servers run; only a client's own "
                             "tools are supported",
                             tool.path_of("type"), *type));
    const Json* schema = tool.object("input_schema");
    if (schema == nullptr)
      tool.fail("input_schema", text("\"{}\" is required", tool.path_of("input_schema")));
    tools.push_back({{"type", "function"},
                     {"function",
                      {{"name", tool.require_string("name")},
                       {"description", tool.string("description").value_or("")},
                       {"parameters", *schema}}}});
  }
  return tools;
}

ToolChoice read_choice(const Fields& fields, Query& query) {
  const Json* given = fields.object("tool_choice");
  if (given == nullptr) return {};
  const Fields choice(*given, "tool_choice");
  if (choice.boolean("disable_parallel_tool_use").value_or(false)) query.max_tool_calls = 1;
  const std::string type = choice.require_string("type");
  if (type == "auto") return {};
  if (type == "none") return {ToolChoice::Kind::kNone, {}};
  if (type == "any") return {ToolChoice::Kind::kRequired, {}};
  if (type == "tool") return {ToolChoice::Kind::kNamed, choice.require_string("name")};
  choice.fail("type", text("\"tool_choice.type\" must be auto, any, tool or none, not \"{}\"", type));
}

std::optional<bool> read_thinking(const Fields& fields, const ServedModel& model) {
  const Json* given = fields.object("thinking");
  if (given == nullptr) return std::nullopt;
  const std::string type = Fields(*given, "thinking").require_string("type");
  if (type == "disabled") return false;
  if (type == "adaptive") return std::nullopt;  // the model decides
  if (type != "enabled")
    fields.fail("thinking",
                text("\"thinking.type\" must be enabled, disabled or adaptive, not \"{}\"", type));
  if (model.thinking == ServedModel::Capability::kNo)
    fields.fail("thinking", text("\"{}\" does not support thinking", model.names.front()));
  return true;
}

// The beginning of the answer that the client wrote itself.
std::string take_prefill(Json& messages, const Fields& fields) {
  if (messages.back().at("role") != "assistant") return {};
  if (messages.back().contains("tool_calls"))
    fields.fail("messages", text("\"messages\" ends with a call of a tool; add its result"));
  std::string written = messages.back().at("content").get<std::string>();
  messages.erase(messages.size() - 1);
  if (messages.empty()) fields.fail("messages", text("\"messages\" must hold a message of the user"));
  return written;
}

Query parse(const Fields& fields, const ServedModel& model) {
  check_model(fields, model);
  Query query;
  query.sampling = model.sampling;
  read_sampling(fields, query.sampling);
  query.stop = read_stop(fields, "stop_sequences");
  if (fields.boolean("stream").value_or(false)) query.delivery = Delivery::kStreamed;
  Conversation conversation;
  conversation.messages = read_messages(fields);
  conversation.enable_thinking = read_thinking(fields, model);
  conversation.prefill = take_prefill(conversation.messages, fields);
  const ToolChoice choice = read_choice(fields, query);
  const Json* tools = fields.array("tools");
  if (tools != nullptr && !tools->empty())
    use_tools(read_tools(*tools), choice, fields, model, conversation);
  else if (choice.kind == ToolChoice::Kind::kRequired || choice.kind == ToolChoice::Kind::kNamed)
    fields.fail("tool_choice", text("\"tool_choice\" asks for a call, but there are no \"tools\""));
  if (!conversation.prefill.empty() && !conversation.forced_start.empty())
    fields.fail("tool_choice", text("\"tool_choice\" asks for a call, but the answer's beginning is given"));
  query.prompt = std::move(conversation);
  return query;
}

}  // namespace

Query parse_anthropic_messages(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  Query query = parse(fields, model);
  query.max_new_tokens = fields.integer("max_tokens", {1, 1e9});
  if (!query.max_new_tokens)
    fields.fail("max_tokens", text("\"max_tokens\" is required and must be a whole number"));
  return query;
}

Query parse_anthropic_count(const Json& body, const ServedModel& model) { return parse(Fields(body), model); }

}  // namespace onggi

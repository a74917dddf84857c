#include "serve/chat_api.h"

#include "base/text.h"
#include "serve/messages.h"
#include "serve/request_error.h"
#include "serve/sampling_fields.h"

namespace onggi {
namespace {

void read_format(const Fields& fields, Query& query) {
  const Json* format = fields.find("format");
  if (format == nullptr) return;
  if (format->is_object()) {
    query.format = AnswerFormat::kJsonSchema;
    query.schema = *format;
  } else if (*format == "json") {
    query.format = AnswerFormat::kJsonObject;
  } else {
    fields.fail("format", text("\"format\" must be \"json\" or a JSON schema"));
  }
}

class ChatFormatter : public AnswerFormatter {
 public:
  explicit ChatFormatter(AnswerHead head) : head_(std::move(head)) {}

  std::string stream_type() const override { return "text/event-stream"; }
  std::string ping() override { return ": still working\n\n"; }

  std::string piece(const AnswerEvent& event) override {
    std::string out;
    if (!event.piece.reasoning.empty()) out += sse({{"thinking", event.piece.reasoning}});
    if (!event.piece.content.empty()) out += sse({{"response", event.piece.content}});
    return out;
  }

  std::string end(const GenerationResults& results) override {
    Json last = {{"response", ""}};
    add_result(results.front(), last);
    last["done"] = true;
    return sse(last) + "data: [DONE]\n\n";
  }

  std::string stream_error(int, const std::string& message) override {
    return "data: " + chat_error(message) + "\n\n";
  }

  Json whole(const std::vector<Answer>& answers, const GenerationResults& results) override {
    Json value = {{"response", answers.front().content}};
    if (!answers.front().reasoning.empty()) value["thinking"] = answers.front().reasoning;
    add_result(results.front(), value);
    return value;
  }

 private:
  static std::string sse(const Json& value) { return "data: " + dump(value) + "\n\n"; }

  void add_result(const GenerationResult& result, Json& value) const {
    value["model"] = head_.model;
    value["finish_reason"] = result.reason == FinishReason::kLength ? "length" : "stop";
    value["usage"] = {{"prompt_tokens", result.prompt_tokens},
                      {"completion_tokens", result.generated_tokens},
                      {"total_tokens", result.prompt_tokens + result.generated_tokens}};
    value["duration_s"] = result.timings.total;
    value["time_to_first_token_s"] = result.timings.first_token;
    // The first token belongs to reading the prompt.
    value["tokens_per_s"] = result.timings.eval > 0 && result.generated_tokens > 1
                                ? static_cast<double>(result.generated_tokens - 1) / result.timings.eval
                                : 0.0;
  }

  AnswerHead head_;
};

}  // namespace

Query parse_chat(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  if (fields.find("model") != nullptr) check_model(fields, model);
  Query query;
  query.sampling = model.sampling;
  read_sampling(fields, query.sampling);
  query.stop = read_stop(fields);
  query.max_new_tokens = model.max_new_tokens;
  for (const char* name : {"max_tokens", "max_new_tokens"})
    if (const auto limit = fields.integer(name, {1, 1e9})) query.max_new_tokens = limit;
  if (fields.boolean("stream").value_or(false)) query.delivery = Delivery::kStreamed;
  read_format(fields, query);

  Conversation conversation;
  conversation.enable_thinking = fields.boolean("think");
  if (conversation.enable_thinking == true && model.thinking == ServedModel::Capability::kNo)
    fields.fail("think", text("\"{}\" does not support thinking", model.names.front()));
  if (const auto system = fields.string("system"); system && !system->empty())
    conversation.messages.push_back({{"role", "system"}, {"content", *system}});
  if (const Json* history = fields.array("history"))
    for (Json& message : to_template_messages(*history, "history"))
      conversation.messages.push_back(std::move(message));
  const std::string message = fields.require_string("message");
  if (message.empty()) fields.fail("message", text("\"message\" must not be empty"));
  conversation.messages.push_back({{"role", "user"}, {"content", message}});
  query.prompt = std::move(conversation);
  return query;
}

std::unique_ptr<AnswerFormatter> chat_formatter(AnswerHead head) {
  return std::make_unique<ChatFormatter>(std::move(head));
}

std::string chat_error(const std::string& message, const std::string& field) {
  Json value = {{"error", message}};
  if (!field.empty()) value["field"] = field;
  return dump(value);
}

}  // namespace onggi

#include "base/text.h"
#include "serve/ollama_api.h"
#include "serve/request_error.h"
#include "serve/sampling_fields.h"
#include "serve/token_text.h"

namespace onggi {
namespace {

// One object per line and never an empty line: clients parse every line.
std::string line(const Json& value) { return dump(value) + "\n"; }

int64_t nanoseconds(double seconds) { return static_cast<int64_t>(seconds * 1e9); }

void add_result(const GenerationResult& result, Json& object) {
  object["done"] = true;
  object["done_reason"] = result.reason == FinishReason::kLength ? "length" : "stop";
  object["total_duration"] = nanoseconds(result.timings.total);
  object["load_duration"] = 0;
  object["prompt_eval_count"] = result.prompt_tokens;
  object["prompt_eval_duration"] = nanoseconds(result.timings.prompt_eval);
  object["eval_count"] = result.generated_tokens;
  object["eval_duration"] = nanoseconds(result.timings.eval);
}

Json calls_json(const std::vector<ToolCall>& calls, size_t first_index) {
  Json result = Json::array();
  for (const ToolCall& call : calls)
    result.push_back(
        {{"id", call.id},
         {"function", {{"index", first_index++}, {"name", call.name}, {"arguments", call.arguments}}}});
  return result;
}

// What chat and generate have in common: they differ in where the text stands.
class OllamaFormatter : public AnswerFormatter {
 public:
  OllamaFormatter(AnswerHead head, const Query& query, Tokenizer tokenizer)
      : head_(std::move(head)), logprobs_(query.logprobs), tokenizer_(std::move(tokenizer)) {}

  std::string stream_type() const override { return "application/x-ndjson"; }
  std::string stream_error(int, const std::string& message) override { return ollama_error(message) + "\n"; }

  std::string piece(const AnswerEvent& event) override {
    remember(event.tokens);
    const Json logprobs = logprobs_json(event.tokens);
    if (event.piece.empty() && logprobs.empty()) return {};
    Json value = object(event.piece.content, event.piece.reasoning, event.piece.tool_calls);
    if (!logprobs.empty()) value["logprobs"] = logprobs;
    value["done"] = false;
    return line(value);
  }

  std::string end(const GenerationResults& results) override {
    Json value = object("", "", {});
    add_result(results.front(), value);
    add_last(value);
    return line(value);
  }

  Json whole(const std::vector<Answer>& answers, const GenerationResults& results) override {
    const Answer& answer = answers.front();
    remember(answer.tokens);
    Json value = object(answer.content, answer.reasoning, answer.tool_calls);
    if (const Json logprobs = logprobs_json(answer.tokens); !logprobs.empty()) value["logprobs"] = logprobs;
    add_result(results.front(), value);
    add_last(value);
    return value;
  }

 protected:
  virtual Json object(const std::string& content, const std::string& reasoning,
                      const std::vector<ToolCall>& calls) = 0;
  virtual void remember(const std::vector<SampledToken>&) {}
  virtual void add_last(Json&) {}

  Json head() const { return {{"model", head_.model}, {"created_at", head_.now()}}; }

 private:
  Json logprobs_json(const std::vector<SampledToken>& tokens) const {
    return logprobs_ == Query::Logprobs::kYes ? tokens_json(tokenizer_, tokens) : Json::array();
  }

  AnswerHead head_;
  Query::Logprobs logprobs_;
  Tokenizer tokenizer_;
};

class ChatFormatter : public OllamaFormatter {
 public:
  using OllamaFormatter::OllamaFormatter;

 private:
  Json object(const std::string& content, const std::string& reasoning,
              const std::vector<ToolCall>& calls) override {
    Json message = {{"role", "assistant"}, {"content", content}};
    if (!reasoning.empty()) message["thinking"] = reasoning;
    if (!calls.empty()) message["tool_calls"] = calls_json(calls, calls_written_);
    calls_written_ += calls.size();
    Json value = head();
    value["message"] = std::move(message);
    return value;
  }

  size_t calls_written_ = 0;
};

class GenerateFormatter : public OllamaFormatter {
 public:
  GenerateFormatter(AnswerHead head, const Query& query, Tokenizer tokenizer, std::vector<int32_t> context)
      : OllamaFormatter(std::move(head), query, std::move(tokenizer)), context_(std::move(context)) {}

 private:
  Json object(const std::string& content, const std::string& reasoning,
              const std::vector<ToolCall>&) override {
    Json value = head();
    value["response"] = content;
    if (!reasoning.empty()) value["thinking"] = reasoning;
    return value;
  }
  void remember(const std::vector<SampledToken>& tokens) override {
    if (context_.empty()) return;
    for (const SampledToken& token : tokens) context_.push_back(token.id);
  }
  void add_last(Json& value) override {
    if (!context_.empty()) value["context"] = context_;
  }

  std::vector<int32_t> context_;  // of the conversation so far, for the next request
};

Json details_json(const ServedModel& model) {
  return {{"parent_model", ""},
          {"format", model.format},
          {"family", model.family},
          {"families", Json::array({model.family})},
          {"parameter_size", model.parameter_size},
          {"quantization_level", model.quantization}};
}

Json capabilities_json(const ServedModel& model) {
  Json capabilities = Json::array({"completion"});
  if (model.tools == ServedModel::Capability::kYes) capabilities.push_back("tools");
  if (model.thinking == ServedModel::Capability::kYes) capabilities.push_back("thinking");
  return capabilities;
}

std::string with_tag(const std::string& name) {
  const size_t slash = name.rfind('/');
  return name.find(':', slash == std::string::npos ? 0 : slash) == std::string::npos ? name + ":latest"
                                                                                     : name;
}

}  // namespace

std::unique_ptr<AnswerFormatter> ollama_chat_formatter(AnswerHead head, const Query& query,
                                                       Tokenizer tokenizer) {
  return std::make_unique<ChatFormatter>(std::move(head), query, std::move(tokenizer));
}

std::unique_ptr<AnswerFormatter> ollama_generate_formatter(AnswerHead head, const Query& query,
                                                           Tokenizer tokenizer, std::vector<int32_t> prompt) {
  return std::make_unique<GenerateFormatter>(std::move(head), query, std::move(tokenizer), std::move(prompt));
}

Json ollama_load_answer(const AnswerHead& head, OllamaEndpoint endpoint, OllamaRequest::Kind kind) {
  Json value = {{"model", head.model}, {"created_at", head.now()}};
  if (endpoint == OllamaEndpoint::kChat)
    value["message"] = {{"role", "assistant"}, {"content", ""}};
  else
    value["response"] = "";
  value["done"] = true;
  value["done_reason"] = kind == OllamaRequest::Kind::kUnload ? "unload" : "load";
  return value;
}

Json ollama_tags(const ServedModel& model) {
  Json models = Json::array();
  for (const std::string& name : model.names)
    models.push_back({{"name", with_tag(name)},
                      {"model", with_tag(name)},
                      {"modified_at", model.modified_at},
                      {"size", model.size_bytes},
                      {"digest", model.digest},
                      {"details", details_json(model)},
                      {"capabilities", capabilities_json(model)}});
  return {{"models", std::move(models)}};
}

Json ollama_running(const ServedModel& model, uint64_t memory) {
  const std::string name = with_tag(model.names.front());
  // The model never leaves by itself; Ollama says so with a date far ahead.
  return {{"models", Json::array({{{"name", name},
                                   {"model", name},
                                   {"size", memory},
                                   {"digest", model.digest},
                                   {"details", details_json(model)},
                                   {"expires_at", "2318-01-01T00:00:00Z"},
                                   {"size_vram", 0},
                                   {"context_length", model.context_length}}})}};
}

Json ollama_show(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  const auto old_name = fields.string("name");
  const std::string name =
      old_name && fields.find("model") == nullptr ? *old_name : fields.require_string("model");
  if (!is_served(model, name)) fail_unknown_model(name, model);
  const std::string parameters =
      fmt::format("temperature {}\ntop_k {}\ntop_p {}\nnum_ctx {}", model.sampling.temperature,
                  model.sampling.top_k, model.sampling.top_p, model.context_length);
  std::string modelfile = fmt::format("# Served by Onggi\nFROM {}\n", model.names.front());
  modelfile += fmt::format("PARAMETER temperature {}\nPARAMETER top_k {}\nPARAMETER top_p {}\n",
                           model.sampling.temperature, model.sampling.top_k, model.sampling.top_p);
  return {{"modelfile", modelfile},
          {"parameters", parameters},
          {"template", model.chat_template},
          {"system", ""},
          {"license", ""},
          {"details", details_json(model)},
          {"model_info", model.model_info},
          {"capabilities", capabilities_json(model)},
          {"modified_at", model.modified_at}};
}

std::string ollama_error(const std::string& message) { return dump({{"error", message}}); }

}  // namespace onggi

#include <array>

#include "base/text.h"
#include "serve/openai_api.h"
#include "serve/token_text.h"

namespace onggi {
namespace {

std::string sse(const Json& value) { return "data: " + dump(value) + "\n\n"; }

Json usage_json(const GenerationResults& results) {
  const TokenUsage usage = usage_of(results);
  return {{"prompt_tokens", usage.prompt},
          {"completion_tokens", usage.completion},
          {"total_tokens", usage.prompt + usage.completion},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached}}}};
}

std::string finish_reason(const GenerationResult& result, size_t tool_calls) {
  if (result.reason == FinishReason::kLength) return "length";
  return tool_calls > 0 ? "tool_calls" : "stop";
}

Json call_json(const ToolCall& call) {
  return {{"id", call.id},
          {"type", "function"},
          {"function", {{"name", call.name}, {"arguments", dump(call.arguments)}}}};
}

// What chat and text completions have in common.
class OpenaiFormatter : public AnswerFormatter {
 public:
  OpenaiFormatter(AnswerHead head, const Query& query, StreamUsage usage, Tokenizer tokenizer)
      : head_(std::move(head)),
        logprobs_(query.logprobs),
        usage_(usage),
        choices_(static_cast<size_t>(query.choices)),
        tokenizer_(std::move(tokenizer)) {}

  std::string stream_type() const override { return "text/event-stream"; }
  std::string ping() override { return ": still working\n\n"; }
  std::string stream_error(int status, const std::string& message) override {
    return "data: " + openai_error(status, message) + "\n\n";
  }
  std::string end(const GenerationResults& results) override {
    std::string out;
    if (usage_ == StreamUsage::kYes) {
      Json last = chunk(Json::array());
      last["usage"] = usage_json(results);
      out = sse(last);
    }
    return out + "data: [DONE]\n\n";
  }

 protected:
  virtual const char* chunk_object() const = 0;

  Json object(const char* kind, Json choices) const {
    return {{"id", head_.id},
            {"object", kind},
            {"created", head_.created},
            {"model", head_.model},
            {"system_fingerprint", "onggi"},
            {"choices", std::move(choices)}};
  }
  // One event of a stream. With include_usage every chunk has the field, null but in the last.
  Json chunk(Json choices) const {
    Json value = object(chunk_object(), std::move(choices));
    if (usage_ == StreamUsage::kYes) value["usage"] = nullptr;
    return value;
  }
  bool wants_logprobs() const { return logprobs_ == Query::Logprobs::kYes; }

  AnswerHead head_;
  Query::Logprobs logprobs_;
  StreamUsage usage_;
  struct ChoiceState {
    size_t tool_calls = 0;
    size_t text_offset = 0;
  };
  std::vector<ChoiceState> choices_;
  Tokenizer tokenizer_;
};

class ChatFormatter : public OpenaiFormatter {
 public:
  using OpenaiFormatter::OpenaiFormatter;

  std::string begin() override {
    std::string out;
    for (size_t i = 0; i < choices_.size(); ++i)
      out += event(static_cast<int64_t>(i), {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
    return out;
  }

  std::string piece(const AnswerEvent& answer) override {
    Json logprobs;
    if (wants_logprobs() && !answer.tokens.empty())
      logprobs = {{"content", tokens_json(tokenizer_, answer.tokens)}, {"refusal", nullptr}};
    std::string out;
    const auto send = [&](Json delta) {
      out += event(answer.choice, std::move(delta), nullptr, std::exchange(logprobs, nullptr));
    };
    // Under both names that clients read.
    if (!answer.piece.reasoning.empty())
      send({{"reasoning_content", answer.piece.reasoning}, {"reasoning", answer.piece.reasoning}});
    if (!answer.piece.content.empty()) send({{"content", answer.piece.content}});
    ChoiceState& state = choices_[static_cast<size_t>(answer.choice)];
    for (const ToolCall& call : answer.piece.tool_calls) {
      Json entry = {{"index", state.tool_calls++}};
      entry.update(call_json(call));
      send({{"tool_calls", Json::array({std::move(entry)})}});
    }
    if (!logprobs.is_null()) send({{"content", ""}});  // tokens whose text is still held back
    if (answer.result)
      out += event(answer.choice, Json::object(), finish_reason(*answer.result, state.tool_calls), nullptr);
    return out;
  }

  Json whole(const std::vector<Answer>& answers, const GenerationResults& results) override {
    Json choices = Json::array();
    for (size_t i = 0; i < answers.size(); ++i) {
      const Answer& answer = answers[i];
      Json message = {{"role", "assistant"}, {"content", answer.content}};
      if (answer.content.empty() && !answer.tool_calls.empty()) message["content"] = nullptr;
      if (!answer.reasoning.empty()) {
        message["reasoning_content"] = answer.reasoning;
        message["reasoning"] = answer.reasoning;
      }
      for (const ToolCall& call : answer.tool_calls) message["tool_calls"].push_back(call_json(call));
      Json logprobs;
      if (wants_logprobs())
        logprobs = {{"content", tokens_json(tokenizer_, answer.tokens)}, {"refusal", nullptr}};
      choices.push_back({{"index", i},
                         {"message", std::move(message)},
                         {"logprobs", std::move(logprobs)},
                         {"finish_reason", finish_reason(results[i], answer.tool_calls.size())}});
    }
    Json value = object("chat.completion", std::move(choices));
    value["usage"] = usage_json(results);
    return value;
  }

 private:
  const char* chunk_object() const override { return "chat.completion.chunk"; }

  std::string event(int64_t choice, Json delta, Json reason, Json logprobs) const {
    return sse(chunk(Json::array({{{"index", choice},
                                   {"delta", std::move(delta)},
                                   {"logprobs", std::move(logprobs)},
                                   {"finish_reason", std::move(reason)}}})));
  }
};

class CompletionFormatter : public OpenaiFormatter {
 public:
  using OpenaiFormatter::OpenaiFormatter;

  std::string piece(const AnswerEvent& answer) override {
    ChoiceState& state = choices_[static_cast<size_t>(answer.choice)];
    Json logprobs;
    if (wants_logprobs() && !answer.tokens.empty())
      logprobs = legacy_logprobs(answer.tokens, state.text_offset);
    std::string out;
    if (!answer.piece.content.empty() || !logprobs.is_null())
      out = sse(chunk(Json::array({choice_json(answer.choice, answer.piece.content, logprobs, nullptr)})));
    if (answer.result)
      out += sse(
          chunk(Json::array({choice_json(answer.choice, "", nullptr, finish_reason(*answer.result, 0))})));
    return out;
  }

  Json whole(const std::vector<Answer>& answers, const GenerationResults& results) override {
    Json choices = Json::array();
    for (size_t i = 0; i < answers.size(); ++i) {
      Json logprobs;
      size_t offset = 0;
      if (wants_logprobs()) logprobs = legacy_logprobs(answers[i].tokens, offset);
      choices.push_back(choice_json(static_cast<int64_t>(i), answers[i].content, std::move(logprobs),
                                    finish_reason(results[i], 0)));
    }
    Json value = object("text_completion", std::move(choices));
    value["usage"] = usage_json(results);
    return value;
  }

 private:
  const char* chunk_object() const override { return "text_completion"; }

  static Json choice_json(int64_t index, const std::string& written, Json logprobs, Json reason) {
    return {{"text", written},
            {"index", index},
            {"logprobs", std::move(logprobs)},
            {"finish_reason", std::move(reason)}};
  }

  // Offsets count bytes of the answer.
  Json legacy_logprobs(std::span<const SampledToken> tokens, size_t& offset) const {
    Json result = {{"tokens", Json::array()},
                   {"token_logprobs", Json::array()},
                   {"top_logprobs", Json::array()},
                   {"text_offset", Json::array()}};
    for (const SampledToken& token : tokens) {
      if (tokenizer_.is_special(token.id)) continue;
      const std::array<int32_t, 1> ids{token.id};
      result["tokens"].push_back(tokenizer_.decode(ids));
      result["token_logprobs"].push_back(token.logprob);
      Json top = Json::object();
      for (const TokenLogprob& other : token.top) {
        const std::array<int32_t, 1> other_ids{other.id};
        top[tokenizer_.decode(other_ids)] = other.logprob;
      }
      result["top_logprobs"].push_back(std::move(top));
      result["text_offset"].push_back(offset);
      offset += tokenizer_.token_bytes(token.id).size();
    }
    return result;
  }
};

std::string error_type(int status) {
  if (status == 401) return "authentication_error";
  if (status == 403) return "permission_error";
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  if (status == 501) return "not_supported_error";
  if (status == 503) return "unavailable_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

}  // namespace

std::unique_ptr<AnswerFormatter> openai_chat_formatter(AnswerHead head, const Query& query, StreamUsage usage,
                                                       Tokenizer tokenizer) {
  return std::make_unique<ChatFormatter>(std::move(head), query, usage, std::move(tokenizer));
}

std::unique_ptr<AnswerFormatter> openai_completion_formatter(AnswerHead head, const Query& query,
                                                             StreamUsage usage, Tokenizer tokenizer) {
  return std::make_unique<CompletionFormatter>(std::move(head), query, usage, std::move(tokenizer));
}

Json openai_model(const ServedModel& model, const std::string& name) {
  return {{"id", name}, {"object", "model"}, {"created", model.created}, {"owned_by", "onggi"}};
}

Json openai_models(const ServedModel& model) {
  Json data = Json::array();
  for (const std::string& name : model.names) data.push_back(openai_model(model, name));
  return {{"object", "list"}, {"data", std::move(data)}};
}

std::string openai_error(int status, const std::string& message, const std::string& field) {
  Json error = {{"message", message}, {"type", error_type(status)}, {"param", nullptr}, {"code", nullptr}};
  if (!field.empty()) error["param"] = field;
  if (status == 404 && field == "model") error["code"] = "model_not_found";
  if (status == 401) error["code"] = "invalid_api_key";
  return dump({{"error", std::move(error)}});
}

}  // namespace onggi

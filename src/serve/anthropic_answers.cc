#include "base/text.h"
#include "serve/anthropic_api.h"

namespace onggi {
namespace {

std::string sse(const char* event, Json value) {
  Json data = {{"type", event}};
  data.update(value);
  return fmt::format("event: {}\ndata: {}\n\n", event, dump(data));
}

// Anthropic counts tokens that were read from the cache apart from the others.
Json usage_json(int64_t prompt, int64_t cached, int64_t written) {
  return {{"input_tokens", prompt - cached},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", cached},
          {"output_tokens", written}};
}
Json usage_json(const GenerationResult& result) {
  return usage_json(result.prompt_tokens, result.cached_tokens, result.generated_tokens);
}

Json stop_json(const GenerationResult& result, size_t calls) {
  Json stop = {{"stop_reason", "end_turn"}, {"stop_sequence", nullptr}};
  if (result.reason == FinishReason::kLength) {
    stop["stop_reason"] = "max_tokens";
  } else if (!result.stop_string.empty()) {
    stop["stop_reason"] = "stop_sequence";
    stop["stop_sequence"] = result.stop_string;
  } else if (calls > 0) {
    stop["stop_reason"] = "tool_use";
  }
  return stop;
}

Json call_block(const ToolCall& call, Json input) {
  return {{"type", "tool_use"}, {"id", call.id}, {"name", call.name}, {"input", std::move(input)}};
}

// Content comes in blocks with an index each; one is open at a time.
class MessagesFormatter : public AnswerFormatter {
 public:
  MessagesFormatter(AnswerHead head, int64_t prompt_tokens)
      : head_(std::move(head)), prompt_tokens_(prompt_tokens) {}

  std::string stream_type() const override { return "text/event-stream"; }
  std::string ping() override { return sse("ping", Json::object()); }
  std::string stream_error(int status, const std::string& message) override {
    return "event: error\ndata: " + anthropic_error(status, message) + "\n\n";
  }

  std::string begin() override {
    Json message = object(Json::array());
    message["stop_reason"] = nullptr;
    message["stop_sequence"] = nullptr;
    message["usage"] = usage_json(prompt_tokens_, 0, 0);
    return sse("message_start", {{"message", std::move(message)}}) + ping();
  }

  // Written in steps: operands of + may be evaluated in any order, and these count blocks.
  std::string piece(const AnswerEvent& event) override {
    std::string out;
    if (!event.piece.reasoning.empty()) {
      out += open(Block::kThinking);
      out += delta({{"type", "thinking_delta"}, {"thinking", event.piece.reasoning}});
    }
    if (!event.piece.content.empty()) {
      out += open(Block::kText);
      out += delta({{"type", "text_delta"}, {"text", event.piece.content}});
    }
    for (const ToolCall& call : event.piece.tool_calls) {
      out += close();
      out += start(call_block(call, Json::object()));
      out += delta({{"type", "input_json_delta"}, {"partial_json", dump(call.arguments)}});
      open_ = Block::kCall;
      out += close();
      ++calls_;
    }
    return out;
  }

  std::string end(const GenerationResults& results) override {
    std::string out = close();
    out += sse("message_delta",
               {{"delta", stop_json(results.front(), calls_)}, {"usage", usage_json(results.front())}});
    return out + sse("message_stop", Json::object());
  }

  Json whole(const std::vector<Answer>& answers, const GenerationResults& results) override {
    const Answer& answer = answers.front();
    Json content = Json::array();
    if (!answer.reasoning.empty())
      content.push_back({{"type", "thinking"}, {"thinking", answer.reasoning}, {"signature", ""}});
    if (!answer.content.empty()) content.push_back({{"type", "text"}, {"text", answer.content}});
    for (const ToolCall& call : answer.tool_calls) content.push_back(call_block(call, call.arguments));
    Json value = object(std::move(content));
    value.update(stop_json(results.front(), answer.tool_calls.size()));
    value["usage"] = usage_json(results.front());
    return value;
  }

 private:
  enum class Block { kNone, kText, kThinking, kCall };

  Json object(Json content) const {
    return {{"id", head_.id},
            {"type", "message"},
            {"role", "assistant"},
            {"model", head_.model},
            {"content", std::move(content)}};
  }
  std::string start(Json block) {
    return sse("content_block_start", {{"index", index_}, {"content_block", std::move(block)}});
  }
  std::string delta(Json change) const {
    return sse("content_block_delta", {{"index", index_}, {"delta", std::move(change)}});
  }
  std::string open(Block wanted) {
    if (open_ == wanted) return {};
    std::string out = close();
    open_ = wanted;
    if (wanted == Block::kText)
      out += start({{"type", "text"}, {"text", ""}});
    else
      out += start({{"type", "thinking"}, {"thinking", ""}, {"signature", ""}});
    return out;
  }
  std::string close() {
    if (open_ == Block::kNone) return {};
    std::string out;
    // Clients expect a signature at the end of reasoning; there is nothing to sign here.
    if (open_ == Block::kThinking) out = delta({{"type", "signature_delta"}, {"signature", ""}});
    open_ = Block::kNone;
    out += sse("content_block_stop", {{"index", index_}});
    ++index_;
    return out;
  }

  AnswerHead head_;
  int64_t prompt_tokens_;
  Block open_ = Block::kNone;
  int64_t index_ = 0;
  size_t calls_ = 0;
};

const char* error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    case 504:
      return "timeout_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

std::unique_ptr<AnswerFormatter> anthropic_formatter(AnswerHead head, int64_t prompt_tokens) {
  return std::make_unique<MessagesFormatter>(std::move(head), prompt_tokens);
}

std::string anthropic_error(int status, const std::string& message) {
  return dump({{"type", "error"}, {"error", {{"type", error_type(status)}, {"message", message}}}});
}

}  // namespace onggi

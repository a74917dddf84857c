// A request for text, whatever the dialect that it came in, and what is told about the model.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "infer/sampler.h"
#include "serve/fields.h"

namespace onggi {

// Facts about the served model that requests are checked against and that clients ask for.
struct ServedModel {
  std::vector<std::string> names;  // the first is the one that answers carry
  std::string digest;              // sha256 of what identifies the model, hexadecimal
  std::string modified_at;         // RFC 3339
  int64_t created = 0;             // the same in Unix seconds
  uint64_t size_bytes = 0;
  std::string format;          // "gguf" or "safetensors"
  std::string family;          // "qwen3"
  std::string parameter_size;  // "8.2B"
  uint64_t parameters = 0;
  std::string quantization;  // "Q4_K_M"
  std::string chat_template;
  int64_t context_length = 0;  // tokens that the service offers
  Json model_info;             // GGUF's keys, as /api/show has them
  SamplingParams sampling;     // what the model recommends
  int64_t max_new_tokens = 2048;
  enum class Capability { kNo, kYes } tools = Capability::kNo, thinking = Capability::kNo;
};

// True for one of the names, with or without ":latest", in any case.
bool is_served(const ServedModel& model, std::string_view name);
// Whether a chat template renders tools, or knows the <think> block.
ServedModel::Capability renders_tools(std::string_view chat_template);
ServedModel::Capability renders_thinking(std::string_view chat_template);

// The prompt: a conversation for the chat template, a text as it is, or token ids.
struct Conversation {
  Json messages = Json::array();  // as chat templates expect them: content is a string, arguments an object
  Json tools;                     // null: none
  Json template_variables;        // null or an object
  std::optional<bool> enable_thinking;
  std::string prefill;              // begins the answer and is not given back, as the client wrote it
  std::string forced_start;         // what the answer begins with ("<tool_call>..."), part of the answer
  std::vector<int32_t> prefix_ids;  // ids of earlier turns (Ollama's "context")
};
struct RawPrompt {
  std::string text;
};
struct PromptIds {
  std::vector<int32_t> ids;
};

enum class AnswerFormat { kText, kJsonObject, kJsonSchema };
enum class Delivery { kWhole, kStreamed };

struct Query {
  std::variant<Conversation, RawPrompt, PromptIds> prompt;
  SamplingParams sampling;
  std::optional<int64_t> max_new_tokens;  // absent: until the context is full
  std::optional<int64_t> context_limit;   // tokens; a smaller context than the service's
  std::vector<std::string> stop;
  int64_t choices = 1;
  enum class Logprobs { kNo, kYes } logprobs = Logprobs::kNo;
  int64_t top_logprobs = 0;
  AnswerFormat format = AnswerFormat::kText;
  Json schema;  // kJsonSchema
  Delivery delivery = Delivery::kWhole;
  int64_t max_tool_calls = 1 << 20;  // further calls of an answer are dropped (parallel_tool_calls = false)
  // Whether <think> and <tool_call> are taken out of the text.
  enum class Structure { kSplit, kPlain } structure = Structure::kSplit;
};

// A call that the model asks for.
struct ToolCall {
  std::string id;  // "call_..."
  std::string name;
  Json arguments;  // an object
};

// One answer, whole.
struct Answer {
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> tool_calls;
  std::vector<SampledToken> tokens;
};

}  // namespace onggi
